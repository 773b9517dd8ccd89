"""What is published of a model: the row that a family's table gives to the list of all variants."""

from __future__ import annotations

from dataclasses import dataclass

from onelook.models.detector import Architecture


@dataclass(frozen=True)
class Published:
    """Accuracy on COCO as the authors of the weights state it, in per cent.

    ap: of the released weights at the architecture's size.  split: the images it was measured on.
    """

    ap: float
    split: str = "val2017"


@dataclass(frozen=True)
class Variant:
    """A published model: name, family, architecture, accuracy, and the official weights with licence and address.

    published, weights_file and url are None where nothing is published.  backbone: address, or name where it has none,
    of the file with its first layers only that its training starts from.
    """

    name: str
    family: str
    architecture: Architecture
    published: Published | None
    weights_file: str | None
    licence: str
    url: str | None
    backbone: str | None = None
