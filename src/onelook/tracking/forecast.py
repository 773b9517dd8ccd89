"""Forecasts the boxes of an earlier frame at a later one (Li et al., ECCV 2020, section 4.2).

Boxes are [left, top, width, height] in pixels, float32; times are numbers of frames, also fractions of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

MATCH_IOU = 0.3


class Boxes(NamedTuple):
    """Detections of one frame: boxes (K, 4) [left, top, width, height], scores (K,), labels (K,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @staticmethod
    def empty() -> Boxes:
        """No detections."""
        return Boxes(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64))

    def rows(self, rows: np.ndarray) -> Boxes:
        """Some of the detections."""
        return Boxes(self.boxes[rows], self.scores[rows], self.labels[rows])


class Forecast(Protocol):
    """The tracks of one sequence: fed with outputs, asked for boxes."""

    def update(self, frame: float, found: Boxes) -> None:
        """A new output, made from this frame."""
        ...

    def at(self, frame: float) -> Boxes:
        """The boxes of the newest output, moved to this frame."""
        ...


def associate(boxes: np.ndarray, labels: np.ndarray, tracks: np.ndarray, track_labels: np.ndarray) -> np.ndarray:
    """Greedy matching by IoU: (K,) int64 rows of the tracks, -1 for a detection without a track.

    In the order of the detections, each takes the free track of its class with the highest IoU, 0.3 or more; of equal
    ones the later.
    """
    overlap = np.where(labels[:, None] == track_labels, _iou(boxes, tracks), -1.0)
    matched = np.full(len(boxes), -1, np.int64)
    for row in range(len(boxes)):
        if overlap.shape[1] == 0:
            break
        best = overlap.shape[1] - 1 - int(np.argmax(overlap[row, ::-1]))
        if overlap[row, best] >= MATCH_IOU:
            matched[row] = best
            overlap[:, best] = -1
    return matched


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, B) IoU of [left, top, width, height] boxes; 0 for boxes without area, which a prediction may have."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    areas = np.maximum(a[..., 2:], 0).prod(-1) + np.maximum(b[..., 2:], 0).prod(-1) - shared
    return np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)


class KalmanForecast:
    """Constant-velocity Kalman filters, one an object: the baseline of the streaming perception challenge.

    The state is the box and its velocity a frame. Tracks that the newest output has not matched are removed, and a new
    track does not move before its first match.
    """

    process_noise = 1.0  # variance of the state after one frame, in square pixels
    measurement_noise = 10.0
    first_variance = 100.0

    def __init__(self) -> None:
        self.frame = 0.0
        self.found = Boxes.empty()
        self.states = np.zeros((0, 8), np.float32)
        self.covariances = np.zeros((0, 8, 8), np.float32)
        self.matched = 0  # the first tracks, which move

    def update(self, frame: float, found: Boxes) -> None:
        """Predicts the tracks at the new frame and corrects those that a detection matches."""
        if len(self.states):
            self._predict(frame - self.frame)
        self.frame = frame
        if not len(found.boxes):
            return  # official behaviour: the tracks stay, at their predicted places
        found = found.rows(np.argsort(-found.scores, kind="stable"))
        boxes = found.boxes.astype(np.float32)
        tracks = associate(boxes, found.labels, self.states[:, :4], self.found.labels)
        old, new = np.flatnonzero(tracks >= 0), np.flatnonzero(tracks < 0)
        states, covariances = self._corrected(tracks[old], boxes[old])
        first = np.zeros((len(new), 8), np.float32)
        first[:, :4] = boxes[new]
        fresh = np.broadcast_to(np.eye(8, dtype=np.float32) * np.float32(self.first_variance), (len(new), 8, 8))
        self.states = np.concatenate([states, first])
        self.covariances = np.concatenate([covariances, fresh])
        self.found, self.matched = found.rows(np.concatenate([old, new])), len(old)

    def at(self, frame: float) -> Boxes:
        """The boxes of the newest output, moved to this frame."""
        boxes = self.states[:, :4].copy()
        boxes[: self.matched] += np.float32(frame - self.frame) * self.states[: self.matched, 4:]
        return Boxes(boxes, self.found.scores, self.found.labels)

    def _predict(self, frames: float) -> None:
        step = np.eye(8, dtype=np.float32)
        step[range(4), range(4, 8)] = frames
        noise = np.eye(8, dtype=np.float32) * np.float32(self.process_noise * frames**2)
        self.states = self.states @ step.T
        self.covariances = step @ self.covariances @ step.T + noise

    def _corrected(self, tracks: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        states, covariances = self.states[tracks], self.covariances[tracks]
        if not len(tracks):
            return states, covariances
        innovation = covariances[:, :4, :4] + np.eye(4, dtype=np.float32) * np.float32(self.measurement_noise)
        gain = covariances[:, :, :4] @ np.linalg.inv(innovation)
        states = states + (gain @ (boxes - states[:, :4])[..., None])[..., 0]
        return states, covariances - gain @ covariances[:, :4, :]


class LinearForecast:
    """Constant velocity from the last two outputs: box + time * (box - box before) / frames between them."""

    def __init__(self) -> None:
        self.frame = 0.0
        self.found = Boxes.empty()
        self.velocities = np.zeros((0, 4), np.float32)

    def update(self, frame: float, found: Boxes) -> None:
        """Matches the new output with the one before; what is new stands still."""
        passed = frame - self.frame
        expected = self.found.boxes + passed * self.velocities
        order = np.argsort(-found.scores, kind="stable")
        found = found.rows(order)
        tracks = associate(found.boxes, found.labels, expected, self.found.labels)
        velocities = np.zeros((len(tracks), 4), np.float32)
        old = np.flatnonzero(tracks >= 0)
        if passed:
            velocities[old] = (found.boxes[old] - self.found.boxes[tracks[old]]) / passed
        self.frame, self.found, self.velocities = frame, found, velocities

    def at(self, frame: float) -> Boxes:
        """The boxes of the newest output, moved to this frame."""
        return self.found._replace(boxes=self.found.boxes + (frame - self.frame) * self.velocities)


@dataclass(frozen=True)
class Kind:
    """A way to forecast. start: makes the tracks of a sequence.  title: one line about it."""

    start: Callable[[], Forecast]
    title: str


FORECASTS: dict[str, Kind | None] = {
    "none": None,
    "linear": Kind(LinearForecast, "constant velocity from the last two outputs"),
    "kalman": Kind(KalmanForecast, "constant-velocity Kalman filters"),
}
"""The ways to forecast, by name; None leaves the boxes where they were found."""
