"""What a confidence threshold gives, and whether confidences are what they say: operating points and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RECALL_TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CALIBRATED_FROM = 0.1
"""The least confidence that calibration counts: below, detectors put out as many boxes as they are asked for."""


@dataclass(frozen=True)
class OperatingPoint:
    """The highest confidence threshold whose recall reaches a target, at IoU 0.5 and over all classes together.

    recall_target: as asked for.  confidence, precision, recall, f1: at this threshold; None where no threshold reaches
    the target.
    """

    recall_target: float
    confidence: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class CalibrationBin:
    """The detections with a confidence from `low` up to `high`: their number, mean confidence, and precision."""

    low: float
    high: float
    detections: int
    confidence: float
    precision: float


@dataclass(frozen=True)
class Calibration:
    """How well the confidence of a detection is the share of such detections that are right, at IoU 0.5.

    error: mean absolute difference of confidence and precision, weighted by detections (the expected calibration error
    of Guo et al. 2017, eq. 3, for detections as in Kueppers et al. 2020); None without detections.  bins: of width 0.1
    from `CALIBRATED_FROM` on, without empty ones.
    """

    error: float | None
    bins: tuple[CalibrationBin, ...]


def operating_points(
    scores: np.ndarray, right: np.ndarray, objects: int, targets: Sequence[float] = RECALL_TARGETS
) -> list[OperatingPoint]:
    """A point for each target of recall.

    scores: (K,) of the detections that count.  right: (K,) bool, whether they match an object.  objects: how many
    objects there are.
    """
    order = np.argsort(-scores, kind="stable")
    found, confidences = np.cumsum(right[order]), scores[order]
    ends = np.append(confidences[1:] != confidences[:-1], True)[: len(order)]  # a threshold takes all equal scores
    points = []
    for target in targets:
        reached = np.flatnonzero(ends & (found >= target * objects)) if objects else np.zeros(0, np.int64)
        if not len(reached):
            points.append(OperatingPoint(target, None, None, None, None))
            continue
        place = int(reached[0])
        hits, taken = int(found[place]), place + 1
        f1 = 2 * hits / (taken + objects)
        points.append(OperatingPoint(target, float(confidences[place]), hits / taken, hits / objects, f1))
    return points


def calibration(scores: np.ndarray, right: np.ndarray) -> Calibration:
    """The calibration of detections. scores: (K,) in 0..1.  right: (K,) bool, whether they match an object."""
    bins, weighted, total = [], 0.0, 0
    for tenth in range(round(CALIBRATED_FROM * 10), 10):
        low, high = tenth / 10, (tenth + 1) / 10
        inside = (scores >= low) & ((scores <= high) if tenth == 9 else (scores < high))
        count = int(inside.sum())
        if count:
            one = CalibrationBin(low, high, count, float(scores[inside].mean()), float(right[inside].mean()))
            bins.append(one)
            weighted += count * abs(one.confidence - one.precision)
            total += count
    return Calibration(weighted / total if total else None, tuple(bins))
