"""The detector that all families share, and the contracts of its parts.

A detector is `head(neck(backbone(pixels(images))))`. Parts tell each other their shapes: a backbone and a neck publish
`channels` and `strides`, and the next part is built from them. Assigners, losses and NMS are not here: a head only says
what it sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from onelook.augment.frame import Frame
from onelook.types import Predictions

if TYPE_CHECKING:
    from onelook.types import Pyramid


class FeaturePart(nn.Module):
    """A backbone or a neck: what the next part must know of its outputs, finest level first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Backbone(FeaturePart):
    """forward: (B, 3, H, W) pixels as the weights expect them -> Pyramid."""


class Neck(FeaturePart):
    """forward: Pyramid -> Pyramid. A neck that feeds an auxiliary head returns the lead levels, then the auxiliary."""


@dataclass(frozen=True)
class ClassRows:
    """Which rows of a prediction layer belong to classes: `anchors` blocks of `before` rows, C classes, `after` rows.

    YOLOX's class layers are ClassRows(); a YOLOv7 or YOLOv4 layer is ClassRows(anchors=3, before=5).
    """

    anchors: int = 1
    before: int = 0
    after: int = 0


class Head(nn.Module):
    """forward: Pyramid -> Predictions, decoded, in training and in evaluation."""

    num_classes: int

    def class_rows(self) -> dict[str, ClassRows]:
        """Every tensor (name inside the head) whose first axis grows with the class count, and where classes lie in it.

        What fine-tuning on another class list needs: all rows of classes both lists name, and all other rows, are kept.
        """
        raise TypeError(f"{type(self).__name__} does not say which of its rows belong to classes")


@runtime_checkable
class Architecture(Protocol):
    """A model as a value: frozen dataclasses such as `Yolox`. Everything that must travel with weights is here."""

    @property
    def num_classes(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) of the input the published weights were made for

    @property
    def frame(self) -> Frame: ...

    def build(self) -> Detector:
        """A freshly initialised detector in training form."""
        ...

    def official_names(self) -> dict[str, str]:
        """Our tensor name -> the official repository's, one to one, for the training form."""
        ...


class Detector(nn.Module):
    """A whole detector. `architecture` and `class_names` say what it is; no other part reads them."""

    def __init__(self, pixels: nn.Module, backbone: Backbone, neck: Neck, head: Head) -> None:
        super().__init__()
        self.pixels = pixels
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.architecture: Architecture | None = None
        self.class_names: tuple[str, ...] = ()

    def features(self, images: Tensor) -> Pyramid:
        """(B, 3, H, W) RGB 0..255 -> the neck's outputs, finest first."""
        return self.neck(self.backbone(self.pixels(images)))

    def forward(self, images: Tensor) -> Predictions:
        """(B, 3, H, W) float RGB 0..255, sides multiples of the largest stride -> Predictions."""
        return self.head(self.features(images))
