"""The decoupled, anchor-free head (YOLOX, fig. 2 and sec. 2.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.models.detector import ClassRows, Head, Neck
from onelook.ops.boxes import cxcywh_to_xyxy
from onelook.ops.priors import flatten_levels, grid_priors
from onelook.types import Predictions, Priors

if TYPE_CHECKING:
    from onelook.types import Pyramid

PRIOR_PROBABILITY = 0.01  # of an object at a cell, before any training (RetinaNet, sec. 4.1)


class DecoupledLevel(nn.Module):
    """One level: a 1x1 stem, then a tower of two 3x3 for the classes and one for box and objectness."""

    def __init__(self, inputs: int, hidden: int, num_classes: int, style: ConvStyle) -> None:
        super().__init__()
        self.stem = style.conv(inputs, hidden)
        self.class_tower = nn.Sequential(style.spatial(hidden, hidden), style.spatial(hidden, hidden))
        self.box_tower = nn.Sequential(style.spatial(hidden, hidden), style.spatial(hidden, hidden))
        self.classes = nn.Conv2d(hidden, num_classes, 1)
        self.boxes = nn.Conv2d(hidden, 4, 1)
        self.objectness = nn.Conv2d(hidden, 1, 1)
        for layer in (self.classes, self.objectness):
            nn.init.constant_(_bias(layer), -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, inputs, H, W) -> box values (B, 4, H, W), objectness (B, 1, H, W), classes (B, C, H, W), all raw."""
        x = self.stem(x)
        box = self.box_tower(x)
        return self.boxes(box), self.objectness(box), self.classes(self.class_tower(x))


class DecoupledHead(Head):
    """One `DecoupledLevel` for every level of the neck; nothing is shared between levels.

    Raw values of a cell are the offset of the centre from the cell's corner in strides, unbounded, and the logarithm
    of width and height in strides.
    """

    def __init__(self, neck: Neck, hidden: int, num_classes: int, style: ConvStyle) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = neck.strides
        self.levels = nn.ModuleList(DecoupledLevel(inputs, hidden, num_classes, style) for inputs in neck.channels)

    def forward(self, pyramid: Pyramid) -> Predictions:
        levels = [level(features) for level, features in zip(self.levels, pyramid, strict=True)]
        boxes, objectness, classes = (flatten_levels(maps) for maps in zip(*levels))
        # Half a pixel is the resolution of float16 above 512, and exp overflows in it: decode in float32 at least.
        dtype = torch.promote_types(boxes.dtype, torch.float32)
        boxes, objectness, classes = boxes.to(dtype), objectness.to(dtype), classes.to(dtype)
        shapes = [(features.shape[2], features.shape[3]) for features in pyramid]
        priors = grid_priors(shapes, self.strides, dtype=dtype, device=boxes.device)
        return Predictions(decode(boxes, priors), classes, objectness.squeeze(-1), boxes, priors)

    def class_rows(self) -> dict[str, ClassRows]:
        names = (f"levels.{index}.classes" for index in range(len(self.levels)))
        return {f"{name}.{kind}": ClassRows() for name in names for kind in ("weight", "bias")}


def decode(regression: Tensor, priors: Priors) -> Tensor:
    """(B, N, 4) raw values -> (B, N, 4) xyxy pixels. Widths are not bounded: exp may overflow to infinity."""
    strides = priors.strides[:, None]
    corners = priors.points - strides / 2
    centres = regression[..., :2] * strides + corners
    return cxcywh_to_xyxy(torch.cat((centres, regression[..., 2:].exp() * strides), -1))


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # made with one in the constructor above
    return layer.bias
