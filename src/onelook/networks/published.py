"""Records of published models: the rows of the families' tables of variants."""

from __future__ import annotations

from dataclasses import dataclass

from onelook.networks.detector import Architecture


@dataclass(frozen=True)
class Published:
    """Accuracy on COCO as published by the authors of the weights, in per cent.

    ap: of the released weights at the architecture's size.  split: of the images it was measured on.
    """

    ap: float
    split: str = "val2017"


@dataclass(frozen=True)
class Variant:
    """A published model: name, family, architecture, accuracy, and the official weights with licence and address.

    published, weights_file and url are None if nothing is published.  backbone: address, or name without address, of
    the file with the first layers only, from which its training starts.  like: name of the variant whose training it
    takes, where it is a model of a file.
    """

    name: str
    family: str
    architecture: Architecture
    published: Published | None
    weights_file: str | None
    licence: str
    url: str | None
    backbone: str | None = None
    like: str | None = None
