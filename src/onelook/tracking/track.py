"""One track: an object that is followed from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onelook.tracking.box_filter import BoxFilter


@dataclass(eq=False)
class Track:
    """The state of a track.

    identity: from 1.  filter: its box.  label: class.  hits: frames in which it was detected.  missed: frames since
    then.  confirmed: whether it is more than a single detection.  observations: frame number -> detected box, xyxy, of
    the last frames.  observed: the filter after the last detection.
    """

    identity: int
    filter: BoxFilter
    label: int
    frame: int
    hits: int = 1
    missed: int = 0
    confirmed: bool = False
    observations: dict[int, np.ndarray] = field(default_factory=dict)
    observed: BoxFilter | None = None

    def predict(self) -> None:
        """Moves the track to the next frame; it counts as missed until it is detected there."""
        self.filter = self.filter.predicted(lost=self.missed > 0)
        self.missed += 1

    def detect(self, box: np.ndarray, frame: int) -> None:
        """A detection of this frame belongs to the track."""
        self.filter = self.filter.corrected(box)
        self.hits += 1
        self.missed, self.frame = 0, frame


def boxes_of(tracks: Sequence[Track]) -> np.ndarray:
    """(T, 4) the boxes of tracks, xyxy."""
    return np.array([track.filter.box for track in tracks]).reshape(-1, 4)


def labels_of(tracks: Sequence[Track]) -> np.ndarray:
    """(T,) their classes."""
    return np.array([track.label for track in tracks], np.int64)
