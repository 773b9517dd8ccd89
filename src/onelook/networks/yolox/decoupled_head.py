"""The layers of a head at one level: decoupled head (YOLOX, fig. 2), or coupled head of YOLOv3 (table 2, first row)."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.networks.detector import ClassRows

PRIOR_PROBABILITY = 0.01  # of an object at a cell, before any training (RetinaNet, sec. 4.1)
_BIAS = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)

Maps = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Raw outputs for A anchors in a cell, anchor-major: box values (B, 4A, H, W), objectness (B, A, H, W), classes
(B, CA, H, W), and the output of a `Selector` (B, A, H, W), or None."""


@runtime_checkable
class HeadLevel(Protocol):
    """A module that computes `Maps` from features (B, inputs, H, W)."""

    def __call__(self, x: Tensor) -> Maps: ...

    def class_rows(self) -> dict[str, ClassRows]:
        """See `Head.class_rows`; with names inside the level."""
        ...


class Selector(nn.Sequential):
    """Branch that selects one prior for each object, so that no NMS is needed (YOLOX table 2, last row).

    The paper names two convolutions, one-to-one assignment and a stopped gradient after Zhou et al. (2021,
    arXiv 2101.11782). Its numbers of parameters and GFLOPs give the rest: two 3x3 convolutions of the head's width and
    a 1x1 to one value for each anchor. Their input is not specified; as in Zhou et al. it is the regression branch,
    which gets no gradient from them.
    """

    def __init__(self, inputs: int, hidden: int, anchors: int, style: ConvStyle) -> None:
        super().__init__(style.spatial(inputs, hidden), style.spatial(hidden, hidden), nn.Conv2d(hidden, anchors, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, A, H, W) for features (B, inputs, H, W)."""
        return super().forward(x.detach())


class DecoupledLevel(nn.Module):
    """Decoupled head at one level: a 1x1 stem, then two 3x3 for the classes and two for box and objectness."""

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
    """Coupled head at one level: a 3x3 to twice the channels, then a 1x1 to 4 + 1 + C values for every anchor (YOLOv3).

    hidden: channels of a `Selector`, whose input is the output of the 3x3.
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
    assert layer.bias is not None  # the constructors above make layers with bias
    return layer.bias
