"""Optimal one-to-one matching of tracks and detections."""

from __future__ import annotations

import numpy as np

_NEVER = -1e6


def assign(score: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) pairs with the highest sum of scores, of those that are allowed.

    score, allowed: (A, B). As many pairs as possible are made before their scores count.
    """
    if not allowed.any():
        return []
    from hotcoco import primitives  # here, as detecting without tracking needs no hotcoco

    rows, columns = primitives.lsap(np.where(allowed, score, _NEVER), maximize=True)
    return [(row, column) for row, column in zip(rows.tolist(), columns.tolist()) if allowed[row, column]]
