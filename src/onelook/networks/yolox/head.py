"""The decoupled head of YOLOX (fig. 2 and sec. 2.1); with other levels and anchors, the heads it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.networks.detector import ClassRows, Head
from onelook.networks.yolox.decoupled_head import HeadLevel
from onelook.ops.boxes import cxcywh_to_xyxy
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import flatten_levels, grid_priors
from onelook.types import Predictions, Priors

if TYPE_CHECKING:
    from onelook.types import Pyramid

Anchors = tuple[tuple[tuple[float, float], ...], ...]
"""(width, height) in pixels of every level's anchor boxes, finest level first."""


class YoloxHead(Head):
    """Head of one module for each level (`decoupled_head`); nothing is shared between levels.

    Without anchors, the raw values of a cell are the offset of the centre from the cell's corner in strides, unbounded,
    and the logarithms of width and height in strides. With anchors they are those of YOLOv3 (sec. 2.1): the offset is
    a sigmoid, and the logarithms are relative to the anchor.
    """

    def __init__(
        self, levels: Sequence[nn.Module], strides: tuple[int, ...], num_classes: int, anchors: Anchors | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = strides
        self.num_anchors = 1 if anchors is None else len(anchors[0])
        boxes = None if anchors is None else torch.tensor(anchors, device="cpu")
        self.register_buffer("anchors", boxes, persistent=False)  # part of the architecture
        self.levels = nn.ModuleList(levels)

    anchors: Tensor | None

    def forward(self, pyramid: Pyramid) -> Predictions:
        levels = [level(features) for level, features in zip(self.levels, pyramid, strict=True)]

        def rows(maps: Sequence[Tensor]) -> Tensor:
            # Float16 has a resolution of half a pixel above 512, and exp overflows in it.
            return at_least_float32(flatten_levels(maps, self.num_anchors))

        boxes, objectness, classes = (rows(maps) for maps in list(zip(*levels))[:3])
        unique = None if levels[0][3] is None else rows([level[3] for level in levels]).squeeze(-1)
        shapes = [(features.shape[2], features.shape[3]) for features in pyramid]
        anchors = None if self.anchors is None else tuple(self.anchors)
        priors = grid_priors(shapes, self.strides, anchors=anchors, dtype=boxes.dtype, device=boxes.device)
        return Predictions(decode(boxes, priors), classes, objectness.squeeze(-1), boxes, priors, unique=unique)

    def class_rows(self) -> dict[str, ClassRows]:
        found: dict[str, ClassRows] = {}
        for index, level in enumerate(self.levels):
            assert isinstance(level, HeadLevel)
            found |= {f"levels.{index}.{name}": rows for name, rows in level.class_rows().items()}
        return found


def decode(regression: Tensor, priors: Priors) -> Tensor:
    """Decodes raw values (B, N, 4) to (B, N, 4) xyxy pixels. Sides are unbounded: exp may overflow to infinity."""
    strides = priors.strides[:, None]
    corners = priors.points - strides / 2
    offsets, sides = regression.split(2, -1)
    if priors.sizes is None:
        return cxcywh_to_xyxy(torch.cat((offsets * strides + corners, sides.exp() * strides), -1))
    return cxcywh_to_xyxy(torch.cat((offsets.sigmoid() * strides + corners, sides.exp() * priors.sizes), -1))
