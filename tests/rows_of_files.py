"""Exported files opened and run, and their rows compared with those of PyTorch: for the tests of the formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from onelook.exporting.target import ExportedFile
from onelook.exporting.verify import verification_images
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime

SIZE = (64, 96)


def opened(exported: ExportedFile, **settings: Any) -> ExportedRuntime:
    kind = exported_runtime(exported.path)
    assert kind is not None
    return kind(exported.path, **settings)


def batch(count: int) -> np.ndarray:
    """(count, H, W, 3) uint8."""
    return np.resize(verification_images(SIZE), (count, 3, *SIZE)).transpose(0, 2, 3, 1).astype(np.uint8)


class AllRows:
    """Keeps all rows as they are, with their best scores: NMS would turn a rounding into another order."""

    def __call__(self, boxes: np.ndarray, scores: np.ndarray) -> Any:
        return np.asarray(boxes), np.asarray(scores).max(-1), np.zeros(len(boxes), np.int64)

    def batch(self, boxes: np.ndarray, scores: np.ndarray) -> list[Any]:
        return [self(*pair) for pair in zip(boxes, scores)]


def assert_same(found: list[Any], expected: list[Any], tolerance: float = 0.05) -> None:
    assert len(found) == len(expected) > 0
    assert sum(len(scores) for _, scores, _ in expected) > 5
    for (boxes, scores, labels), (theirs, their_scores, their_labels) in zip(found, expected):
        np.testing.assert_array_equal(labels, their_labels)
        np.testing.assert_allclose(boxes, theirs, atol=tolerance, rtol=1e-3)
        np.testing.assert_allclose(scores, their_scores, atol=2e-3)
