"""Overlap of boxes: IoU and its generalisations, elementwise and pairwise.

IoU is intersection over union. GIoU subtracts the empty share of the enclosing box (Rezatofighi et al. 2019), DIoU the
squared centre distance over the squared enclosing diagonal, CIoU also a term for the aspect ratio (Zheng et al. 2020).
All boxes are xyxy; a box with non-positive sides overlaps nothing.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

IouKind = Literal["iou", "giou", "diou", "ciou"]


def box_iou(first: Tensor, second: Tensor, kind: IouKind = "iou", epsilon: float = 1e-16) -> Tensor:
    """Overlap of the boxes (..., 4) and (..., 4), broadcast against each other: (...), at most 1.

    `epsilon` is added to every denominator, so that two boxes without area give 0 and not 0/0. The weight of CIoU's
    aspect term carries no gradient, as published.
    """
    a, b = first.unbind(-1), second.unbind(-1)
    overlap_w = torch.minimum(a[2], b[2]).sub(torch.maximum(a[0], b[0])).clamp(min=0)
    overlap_h = torch.minimum(a[3], b[3]).sub(torch.maximum(a[1], b[1])).clamp(min=0)
    intersection = overlap_w * overlap_h
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    iou = intersection / (union + epsilon)
    if kind == "iou":
        return iou
    hull_w = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    hull_h = torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    if kind == "giou":
        hull = hull_w * hull_h
        return iou - (hull - union) / (hull + epsilon)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diou = iou - distance / (hull_w**2 + hull_h**2 + epsilon)
    if kind == "diou":
        return diou
    angle = _slope(b[2] - b[0], b[3] - b[1]) - _slope(a[2] - a[0], a[3] - a[1])
    aspect = 4 / math.pi**2 * angle**2
    with torch.no_grad():
        # Where boxes agree in everything, v and 1 - IoU + v are both 0 and so is the term.
        weight = aspect / (1 - iou + aspect).clamp(min=torch.finfo(aspect.dtype).tiny)
    return diou - weight * aspect


def _slope(width: Tensor, height: Tensor) -> Tensor:
    """The angle of a box's diagonal; of a point 0, without a gradient (PyTorch before 2.7 gives one that is NaN)."""
    point = (width == 0) & (height == 0)
    return torch.atan2(width.masked_fill(point, 0.0), height.masked_fill(point, 1.0))


def pairwise_iou(first: Tensor, second: Tensor, kind: IouKind = "iou", epsilon: float = 1e-16) -> Tensor:
    """Overlap of every box of `first` (..., M, 4) with every box of `second` (..., N, 4): (..., M, N)."""
    return box_iou(first.unsqueeze(-2), second.unsqueeze(-3), kind, epsilon)
