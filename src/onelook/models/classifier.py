"""A classifier of whole pictures on the backbone of any detector: what backbones are trained as (YOLOv4 sec. 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from onelook.augment.letterbox import Resize, Stretch
from onelook.models.detector import Architecture, Backbone


@dataclass(frozen=True)
class Classification:
    """The backbone of a detector's architecture, mean over the coarsest level, one linear layer.

    network: whose backbone it is; its neck, head and class count do not matter.  size: (height, width) of the input.
    """

    network: Architecture
    num_classes: int = 1000
    size: tuple[int, int] = (256, 256)

    provides: ClassVar[frozenset[str]] = frozenset({"image classes"})

    @property
    def frame(self) -> Resize:
        """Pictures come as the centre of what covers the input; the frame of a detector is never asked for."""
        return Stretch()

    def build(self) -> Any:
        """A `Classifier`, its backbone initialised as a detector's is."""
        detector = self.network.build()
        classifier = Classifier(detector.pixels, detector.backbone, self.num_classes)
        classifier.architecture = self
        return classifier

    def official_names(self) -> dict[str, str]:
        """Nobody else has files of these: our names are the official ones."""
        return {name: name for name in self.build().state_dict()}


class Classifier(nn.Module):
    """forward: (B, 3, H, W) RGB 0..255, sides multiples of the largest stride -> (B, C) logits of a softmax.

    Its tensors `backbone.*` are those of a detector with the same backbone. The rest is as in `Detector`.
    """

    def __init__(self, pixels: nn.Module, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.backbone = backbone
        self.after_backbone: nn.Module = nn.Identity()
        self.classes = nn.Linear(backbone.channels[-1], num_classes)
        self.architecture: Classification | None = None
        self.class_names: tuple[str, ...] = ()
        self.deployed = False

    def forward(self, images: Tensor) -> Tensor:
        features = self.after_backbone(self.backbone(self.pixels(images)))[-1]
        return self.classes(features.mean((2, 3)))
