"""Optimal one-to-one matching of tracks and detections."""

from __future__ import annotations

import numpy as np

_NEVER = -1e6


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, B) IoU of boxes in xyxy."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)


def assign(score: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) pairs with the highest sum of scores, of those that are allowed.

    score, allowed: (A, B). As many pairs as possible are made before their scores count.
    """
    if not allowed.any():
        return []
    from hotcoco import primitives  # here, as detecting without tracking needs no hotcoco

    rows, columns = primitives.lsap(np.where(allowed, score, _NEVER), maximize=True)
    return [(row, column) for row, column in zip(rows.tolist(), columns.tolist()) if allowed[row, column]]
