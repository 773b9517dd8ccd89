"""Pairs every frame with the newest output that is finished at its time (Li et al., ECCV 2020, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.errors import UsageError
from onelook.streaming.schedule import Schedule

NOTHING = -1


@dataclass(frozen=True)
class Counters:
    """Counts over all frames.

    missed: frames before the first output.  in_time: frames whose output is of this very frame.  mismatch: sum of the
    ages of the outputs, in frames.  processed: outputs.  frames: frames.
    """

    missed: int = 0
    in_time: int = 0
    mismatch: int = 0
    processed: int = 0
    frames: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def newest_outputs(schedule: Schedule, num_frames: int, fps: float, eta: float = 0.0) -> np.ndarray:
    """(num_frames,) int64: the output of each frame, -1 where none is finished.

    Frame i is queried at (i - eta) / fps; an output that is finished at that very time counts. eta: at least -1; 1 asks
    for a prediction one frame ahead, -1 allows the time of one frame.
    """
    if not -1 <= eta < np.inf:
        raise UsageError(f"eta is {eta}.", "Give a number of frames, -1 or more.")
    queries = (np.arange(num_frames) - eta) / fps
    return np.searchsorted(schedule.finished, queries, side="right") - 1


def count(schedule: Schedule, newest: np.ndarray) -> Counters:
    """The counters of one sequence. newest: of `newest_outputs`."""
    frames = np.flatnonzero(newest > NOTHING)
    ages = frames - schedule.inputs[newest[frames]]
    missed = len(newest) - len(frames)
    return Counters(missed, int((ages == 0).sum()), int(ages.sum()), len(schedule), len(newest))
