"""IoU, DIoU and the overlap of boxes in NumPy; `ops.iou` is the PyTorch version."""

from __future__ import annotations

import numpy as np


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the IoU (n, m) of xyxy boxes (n, 4) and (m, 4); 0 where neither box has an area."""
    shared, scratch = _intersection(first, second)
    union = np.add(area(first)[:, None], area(second), out=scratch)
    union -= shared
    shared /= np.maximum(union, np.finfo(union.dtype).tiny, out=union)
    return shared


def pairwise_overlap_of_smaller(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the intersection (n, m) of xyxy boxes as a share of the smaller of the two; 0 where one has no area."""
    shared, scratch = _intersection(first, second)
    smaller = np.minimum(area(first)[:, None], area(second), out=scratch)
    shared /= np.maximum(smaller, np.finfo(smaller.dtype).tiny, out=smaller)
    return shared


def _intersection(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The area (n, m) that boxes share, and an array of this shape and type that is free to be used."""
    left, top, right, bottom = first.T[:, :, None]
    shared = np.minimum(right, second[:, 2])
    shared -= np.maximum(left, second[:, 0])
    height = np.minimum(bottom, second[:, 3])
    height -= np.maximum(top, second[:, 1])
    np.maximum(shared, 0, out=shared)
    shared *= np.maximum(height, 0, out=height)
    return shared, height


def pairwise_distance_iou(first: np.ndarray, second: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Returns (n, m): IoU - (d^2 / c^2) ^ power (DIoU), d the centre distance and c the enclosing diagonal."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    distance = np.square(centres[0][:, None] - centres[1]).sum(-1)
    around = np.maximum(first[:, None, 2:], second[:, 2:]) - np.minimum(first[:, None, :2], second[:, :2])
    diagonal = np.square(around).sum(-1)
    part = distance / np.maximum(diagonal, np.finfo(diagonal.dtype).tiny)
    return pairwise_iou(first, second) - part**power


def area(boxes: np.ndarray) -> np.ndarray:
    """Returns the area of xyxy boxes (..., 4); 0 where right <= left or bottom <= top."""
    return (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)
