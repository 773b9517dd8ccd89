"""IoU of boxes and its generalisations GIoU, DIoU and CIoU, elementwise and pairwise, in PyTorch.

IoU is intersection over union. GIoU subtracts the empty share of the enclosing box (Rezatofighi et al. 2019), DIoU the
squared centre distance over the squared enclosing diagonal, CIoU also a term for the aspect ratio (Zheng et al. 2020).
All boxes are xyxy; a box with non-positive sides overlaps nothing. `ops.numpy_iou` is the NumPy version.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

IouKind = Literal["iou", "giou", "diou", "ciou"]


def box_iou(first: Tensor, second: Tensor, kind: IouKind = "iou", epsilon: float = 1e-16) -> Tensor:
    """Returns the overlap of the boxes (..., 4) and (..., 4), broadcast against each other: (...), at most 1.

    `epsilon` is added to every denominator, so that two boxes without area give 0 and not 0/0.
    """
    if kind == "giou":
        return generalized_iou(first, second, epsilon)
    if kind == "diou":
        return distance_iou(first, second, epsilon)
    if kind == "ciou":
        return complete_iou(first, second, epsilon)
    return _iou_and_union(first, second, epsilon)[0]


def generalized_iou(first: Tensor, second: Tensor, epsilon: float = 1e-16) -> Tensor:
    """GIoU (Rezatofighi et al. 2019, alg. 1): IoU minus the share of the enclosing box that the union leaves empty."""
    iou, union = _iou_and_union(first, second, epsilon)
    width, height = _enclosing_sides(first, second)
    enclosing = width * height
    return iou - (enclosing - union) / (enclosing + epsilon)


def distance_iou(first: Tensor, second: Tensor, epsilon: float = 1e-16) -> Tensor:
    """DIoU (Zheng et al. 2020, eq. 7): IoU minus squared centre distance over squared diagonal of the enclosing box."""
    return _distance_iou(_iou_and_union(first, second, epsilon)[0], first, second, epsilon)


def complete_iou(first: Tensor, second: Tensor, epsilon: float = 1e-16) -> Tensor:
    """CIoU (Zheng et al. 2020, eqs. 8 to 11): DIoU minus a term for the difference of the aspect ratios.

    The weight of that term carries no gradient, as published.
    """
    a, b = first.unbind(-1), second.unbind(-1)
    iou, _ = _iou_and_union(first, second, epsilon)
    diou = _distance_iou(iou, first, second, epsilon)
    angle = _slope(b[2] - b[0], b[3] - b[1]) - _slope(a[2] - a[0], a[3] - a[1])
    aspect = 4 / math.pi**2 * angle**2
    with torch.no_grad():
        # For identical boxes, v and 1 - IoU + v are both 0 and so is the term.
        weight = aspect / (1 - iou + aspect).clamp(min=torch.finfo(aspect.dtype).tiny)
    return diou - weight * aspect


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU of every box of `first` (..., M, 4) with every box of `second` (..., N, 4): (..., M, N).

    The assigners compare all objects with all priors. So this works in place, in three buffers instead of a dozen.
    Two boxes without area give NaN (0/0).
    """
    left, top, right, bottom = first.unsqueeze(-1).unbind(-2)
    left2, top2, right2, bottom2 = (side.unsqueeze(-2) for side in second.transpose(-1, -2).contiguous().unbind(-2))
    overlap = torch.minimum(right, right2).sub_(torch.maximum(left, left2)).clamp_(min=0)
    overlap *= torch.minimum(bottom, bottom2).sub_(torch.maximum(top, top2)).clamp_(min=0)
    return overlap.div_((right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - overlap)


def shape_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU (...) of boxes on a common centre; first, second: (..., 2) width and height, broadcast."""
    overlap = torch.minimum(first, second).prod(-1)
    return overlap / (first.prod(-1) + second.prod(-1) - overlap)


def _iou_and_union(first: Tensor, second: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    a, b = first.unbind(-1), second.unbind(-1)
    width = torch.minimum(a[2], b[2]).sub(torch.maximum(a[0], b[0])).clamp(min=0)
    height = torch.minimum(a[3], b[3]).sub(torch.maximum(a[1], b[1])).clamp(min=0)
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / (union + epsilon), union


def _distance_iou(iou: Tensor, first: Tensor, second: Tensor, epsilon: float) -> Tensor:
    a, b = first.unbind(-1), second.unbind(-1)
    width, height = _enclosing_sides(first, second)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    return iou - distance / (width**2 + height**2 + epsilon)


def _enclosing_sides(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box that contains both."""
    a, b = first.unbind(-1), second.unbind(-1)
    width = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    return width, torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])


def _slope(width: Tensor, height: Tensor) -> Tensor:
    """Angle of a box's diagonal; 0 without gradient for a box without sides (NaN gradient in PyTorch before 2.7)."""
    point = (width == 0) & (height == 0)
    return torch.atan2(width.masked_fill(point, 0.0), height.masked_fill(point, 1.0))
