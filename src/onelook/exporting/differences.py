"""How far the outputs of an exported file are from PyTorch's, output by output: for a report, not for a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onelook.ops.nms import Nms, Postprocess, RawDetections
from onelook.ops.numpy_iou import pairwise_iou
from onelook.predict.runtime import Runtime

SAME_OBJECT = 0.5  # least IoU of two boxes, one of each, that are compared as one detection


@dataclass(frozen=True)
class OutputDifference:
    """The absolute differences of one output. unit: "px" of the input, or "" for scores.

    count: how many numbers were compared; with none, the others are NaN.
    """

    output: str
    unit: str
    count: int
    largest: float
    mean: float
    p50: float
    p99: float


@dataclass(frozen=True)
class ImageDifference:
    """The largest differences of one image. box: pixels of the input, of rows that score half of the best or more."""

    image: str
    box: float
    score: float


@dataclass(frozen=True)
class Differences:
    """The differences of all outputs. source: what the images are.  notes: what the numbers do not say."""

    source: str
    outputs: tuple[OutputDifference, ...]
    images: tuple[ImageDifference, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedImages:
    """Images (I, H, W, 3) uint8 RGB that are fitted into the input, and their names. source: what they are."""

    pixels: np.ndarray
    names: tuple[str, ...]
    source: str


def raw_differences(file: Runtime, network: Runtime, images: NamedImages) -> Differences:
    """The differences of boxes and scores of all rows. Boxes are cut to the image, as in `verify.compare_rows`."""
    found, expected = _rows(file, images.pixels), _rows(network, images.pixels)
    height, width = images.pixels.shape[1:3]
    limits = np.array([width, height, width, height], np.float64)
    best = max(float(np.max(scores)) for _, scores in expected)
    every, confident, scored, by_image, beyond = [], [], [], [], 0
    for name, (boxes, scores), (expected_boxes, expected_scores) in zip(images.names, found, expected):
        finite = np.isfinite(expected_boxes) & np.isfinite(boxes)
        beyond += int((np.isfinite(expected_boxes) != np.isfinite(boxes)).sum())
        box = np.abs(
            np.where(finite, boxes, 0.0).clip(0, limits) - np.where(finite, expected_boxes, 0.0).clip(0, limits)
        )
        sure = np.max(expected_scores, -1) >= best / 2
        score = np.abs(scores - expected_scores)
        every.append(box[finite])
        confident.append(box[sure][finite[sure]])
        scored.append(score.ravel())
        by_image.append(ImageDifference(name, _largest(confident[-1]), _largest(score)))
    outputs = (
        _summary(f"boxes of rows that score {best / 2:.2g} or more", "px", confident),
        _summary("boxes of all rows", "px", every),
        _summary("scores of all rows and classes", "", scored),
    )
    notes = (f"{beyond:,} numbers of boxes are finite on one side only.",) if beyond else ()
    return Differences(images.source, outputs, tuple(by_image), notes)


def detection_differences(
    file: Runtime, network: Runtime, images: NamedImages, postprocess: Postprocess
) -> Differences:
    """The differences of the detections of a file with NMS inside, from PyTorch's with the same NMS outside.

    Detections of the same class that overlap by `SAME_OBJECT` or more are compared, the best first.
    """
    found, expected = file(images.pixels, postprocess), network(images.pixels, postprocess)
    counts, boxes, scores, by_image, lonely = [], [], [], [], 0
    for name, one, other in zip(images.names, found, expected):
        pairs = _pairs(one, other)
        box = np.array([np.abs(one[0][i] - other[0][j]) for i, j in pairs], np.float64).ravel()
        score = np.array([abs(one[1][i] - other[1][j]) for i, j in pairs], np.float64)
        counts.append(np.array([abs(len(one[1]) - len(other[1]))], np.float64))
        boxes.append(box)
        scores.append(score)
        lonely += len(one[1]) + len(other[1]) - 2 * len(pairs)
        by_image.append(ImageDifference(name, _largest(box), _largest(score)))
    total = sum(len(one[1]) for one in expected)
    threshold = getattr(postprocess, "confidence", 0.0)
    outputs = (
        _summary("count: detections an image", "", counts),
        _summary("boxes of matched detections", "px", boxes),
        _summary("scores of matched detections", "", scores),
    )
    note = (
        f"At confidence {threshold:g}, PyTorch has {total} detections in these images; {lonely} of either side have no"
        f" partner of the same class with IoU {SAME_OBJECT:g} or more."
    )
    return Differences(images.source, outputs, tuple(by_image), (note,))


def with_limit(postprocess: Postprocess, limit: int) -> Postprocess:
    """The same with at most `limit` detections an image."""
    return replace(postprocess, limit=limit) if isinstance(postprocess, Nms) else postprocess


class _KeepRows:
    """Postprocessing that keeps all rows and chooses none."""

    def __init__(self) -> None:
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, boxes: Any, scores: Any) -> RawDetections:
        self.rows.append((_array(boxes), _array(scores)))
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)

    def batch(self, boxes: Any, scores: Any) -> list[RawDetections]:
        return [self(boxes[row], scores[row]) for row in range(len(boxes))]


def _rows(runtime: Runtime, pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes (N, 4) and scores (N, C) of each image."""
    kept = _KeepRows()
    for image in pixels:
        runtime(image[None], kept)
    return kept.rows


def _array(values: Any) -> np.ndarray:
    """A copy in NumPy: a runtime may use the memory of its outputs again."""
    return np.array(values.cpu() if hasattr(values, "cpu") else values, np.float32)


def _pairs(one: RawDetections, other: RawDetections) -> list[tuple[int, int]]:
    """Which detections of two sets are the same object: rows of both."""
    overlap = np.where(one[2][:, None] == other[2][None], pairwise_iou(one[0], other[0]), 0.0)
    pairs = []
    for j in range(overlap.shape[1]):
        if not len(overlap):
            break
        i = int(np.argmax(overlap[:, j]))
        if overlap[i, j] >= SAME_OBJECT:
            pairs.append((i, j))
            overlap[i] = 0.0
    return pairs


def _largest(values: np.ndarray) -> float:
    return float(np.max(values)) if values.size else float("nan")


def _summary(output: str, unit: str, parts: Sequence[np.ndarray]) -> OutputDifference:
    values = np.concatenate(parts)
    if not values.size:
        return OutputDifference(output, unit, 0, *(float("nan"),) * 4)
    p50, p99 = np.percentile(values, (50, 99))
    return OutputDifference(
        output, unit, values.size, float(np.max(values)), float(np.mean(values)), float(p50), float(p99)
    )
