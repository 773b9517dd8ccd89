"""What a head does at one level: decoupled (YOLOX, fig. 2), or coupled as in YOLOv3 (YOLOX table 2, first row)."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.models.detector import ClassRows

PRIOR_PROBABILITY = 0.01  # of an object at a cell, before any training (RetinaNet, sec. 4.1)
_BIAS = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)

Maps = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Of A anchors a cell, anchor-major and raw: box values (B, 4A, H, W), objectness (B, A, H, W), classes (B, CA, H, W),
and what a `Selector` says, (B, A, H, W), or None."""


@runtime_checkable
class HeadLevel(Protocol):
    """A module (B, inputs, H, W) -> `Maps`."""

    def __call__(self, x: Tensor) -> Maps: ...

    def class_rows(self) -> dict[str, ClassRows]:
        """See `Head.class_rows`; names inside the level."""
        ...


class Selector(nn.Sequential):
    """Says which one of the priors that see an object may speak for it, so that no NMS is needed (table 2, last row).

    The paper names two convolutions, one-to-one assignment and a stopped gradient after Zhou et al. (2021,
    arXiv 2101.11782), and its parameters and GFLOPs tell the rest: two 3x3 convolutions of the head's width and a
    1x1 to a value an anchor. Left open is what they see; as in Zhou et al. it is the regression branch, from which no
    gradient of theirs comes back.
    """

    def __init__(self, inputs: int, hidden: int, anchors: int, style: ConvStyle) -> None:
        super().__init__(style.spatial(inputs, hidden), style.spatial(hidden, hidden), nn.Conv2d(hidden, anchors, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, A, H, W)."""
        return super().forward(x.detach())


class DecoupledLevel(nn.Module):
    """A 1x1 stem, then a tower of two 3x3 for the classes and one for box and objectness."""

    def __init__(
        self, inputs: int, hidden: int, num_classes: int, style: ConvStyle, *, anchors: int = 1, selects: bool = False
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.stem = style.conv(inputs, hidden)
        self.class_tower = nn.Sequential(style.spatial(hidden, hidden), style.spatial(hidden, hidden))
        self.box_tower = nn.Sequential(style.spatial(hidden, hidden), style.spatial(hidden, hidden))
        self.classes = nn.Conv2d(hidden, anchors * num_classes, 1)
        self.boxes = nn.Conv2d(hidden, anchors * 4, 1)
        self.objectness = nn.Conv2d(hidden, anchors, 1)
        for layer in (self.classes, self.objectness):
            nn.init.constant_(_bias(layer), _BIAS)
        self.selector = Selector(hidden, hidden, anchors, style) if selects else None

    def forward(self, x: Tensor) -> Maps:
        x = self.stem(x)
        box = self.box_tower(x)
        selected = None if self.selector is None else self.selector(box)
        return self.boxes(box), self.objectness(box), self.classes(self.class_tower(x)), selected

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(self.anchors)
        return {"classes.weight": rows, "classes.bias": rows}


class CoupledLevel(nn.Module):
    """A 3x3 convolution to twice the channels, then a 1x1 for the 4 + 1 + C values of every anchor (YOLOv3, sec. 2.3).

    hidden: channels of a `Selector`, which sees the 3x3 convolution.
    """

    def __init__(
        self, inputs: int, hidden: int, num_classes: int, style: ConvStyle, *, anchors: int = 1, selects: bool = False
    ) -> None:
        super().__init__()
        self.anchors, self.num_classes = anchors, num_classes
        self.tower = style.spatial(inputs, 2 * inputs)
        self.predictions = nn.Conv2d(2 * inputs, anchors * (5 + num_classes), 1)
        with torch.no_grad():
            _bias(self.predictions).unflatten(0, (anchors, -1))[:, 4:] = _BIAS
        self.selector = Selector(2 * inputs, hidden, anchors, style) if selects else None

    def forward(self, x: Tensor) -> Maps:
        x = self.tower(x)
        values = self.predictions(x).unflatten(1, (self.anchors, -1))
        boxes, objectness, classes = values.split((4, 1, self.num_classes), 2)
        selected = None if self.selector is None else self.selector(x)
        return boxes.flatten(1, 2), objectness.flatten(1, 2), classes.flatten(1, 2), selected

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(self.anchors, before=5)
        return {"predictions.weight": rows, "predictions.bias": rows}


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # made with one in the constructors above
    return layer.bias
