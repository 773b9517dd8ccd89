"""An image classifier with the backbone of a detector, for pretraining the backbone (YOLOv4 sec. 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from onelook.augment.letterbox import Resize, Stretch
from onelook.networks.detector import Architecture, Backbone


@dataclass(frozen=True)
class Classification:
    """Architecture of a classifier: a detector's backbone, average pooling of the coarsest level, a linear layer.

    network: the detector whose backbone is used; its neck, head and class count have no effect.  size: (height, width)
    of the input.
    """

    network: Architecture
    num_classes: int = 1000
    size: tuple[int, int] = (256, 256)

    provides: ClassVar[frozenset[str]] = frozenset({"image classes"})

    @property
    def frame(self) -> Resize:
        """Required by the protocol but not used: a classifier's input is a centre crop."""
        return Stretch()

    def build(self) -> Any:
        """Builds a `Classifier`; its backbone is initialised as in the detector."""
        detector = self.network.build()
        classifier = Classifier(detector.pixels, detector.backbone, self.num_classes)
        classifier.architecture = self
        return classifier

    def official_names(self) -> dict[str, str]:
        """Maps our tensor names to themselves: no official files exist."""
        return {name: name for name in self.build().state_dict()}


class Classifier(nn.Module):
    """An image classifier: (B, 3, H, W) RGB 0..255, sides multiples of the largest stride -> softmax logits (B, C).

    Its tensors `backbone.*` have the names of a detector with the same backbone. Other attributes as in `Detector`.
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
