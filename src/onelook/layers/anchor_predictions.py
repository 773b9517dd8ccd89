"""Predictions of anchor heads (YOLOv4, YOLOv7), decoded from the raw maps of all levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onelook.ops.boxes import cxcywh_to_xyxy
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import flatten_levels, grid_priors
from onelook.types import Predictions, Priors

Decode = Callable[[Tensor, Priors], Tensor]
"""Function of raw values (B, N, 4), tx, ty, tw, th, and their priors; returns boxes (B, N, 4) xyxy in pixels."""


def anchor_predictions(
    maps: Sequence[Tensor], strides: Sequence[int], anchors: Sequence[Tensor], decode: Decode, *, box_values: int = 4
) -> Predictions:
    """Decodes raw maps (B, A * (5 + C), H, W), finest level first, to Predictions, in float32 at least.

    The 5 + C values of an anchor are tx, ty, tw, th, objectness, classes (with `box_values` values before the
    objectness).  anchors: for every level (A, 2) width and height in pixels. Rows are ordered by level, then anchor,
    then row-major: row = offset of the level + (anchor * H + y) * W + x. Points are the centres of the cells.
    """
    rows = flatten_levels(maps, len(anchors[0]))
    # Float16 resolves only half a pixel above 512.
    rows = at_least_float32(rows)
    shapes = [(level.shape[2], level.shape[3]) for level in maps]
    priors = grid_priors(shapes, strides, anchors=anchors, dtype=rows.dtype, device=rows.device)
    regression, objectness, classes = rows.split((box_values, 1, rows.shape[-1] - box_values - 1), -1)
    return Predictions(decode(regression, priors), classes, objectness.squeeze(-1), regression, priors)


def decode_sigmoid(regression: Tensor, priors: Priors) -> Tensor:
    """Decodes boxes with sigmoids: centres up to half a cell outside of their cell, sides of 0 to 4 anchors.

        centre = cell's corner + (2 sigmoid(t_xy) - 0.5) * stride        sides = (2 sigmoid(t_wh))^2 * anchor

    The centre of the cell is half a stride from its corner, hence the 1 below. (N, 4) raw values -> xyxy pixels.
    """
    if priors.sizes is None:
        raise ValueError("boxes are decoded relative to anchors, and these priors have none (`Priors.sizes` is None)")
    doubled = regression.sigmoid() * 2
    centres = priors.points + (doubled[..., :2] - 1) * priors.strides[:, None]
    return cxcywh_to_xyxy(torch.cat((centres, doubled[..., 2:].square() * priors.sizes), -1))
