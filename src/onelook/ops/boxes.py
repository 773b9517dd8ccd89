"""Conversions between box formats, for tensors of any leading shape."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Converts (..., 4) centre and size to (..., 4) corners, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Converts (..., 4) corners to (..., 4) centre and size, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def distances_to_xyxy(points: Tensor, distances: Tensor) -> Tensor:
    """Converts points (N, 2) and distances (..., N, 4) to left, top, right and bottom side to (..., N, 4) corners."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
