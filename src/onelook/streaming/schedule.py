"""Simulates which frames of a video a detector processes, and when each output is finished.

Frame i exists from time i / fps on. A detector starts on the newest frame, and frames that arrive while it is busy are
never processed (Li et al., ECCV 2020, sections 3 and 4). Nothing runs in real time: run times are drawn from measured
ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from onelook.errors import UsageError
from onelook.streaming.run_times import RunTimes

EVERY_FRAME = 0  # devices: as many as there are frames
MOST_DEVICES = 1024


@dataclass(frozen=True)
class Policy:
    """When a detector starts, and on which frames.

    devices: detectors that run at the same time; 0 is one for every frame.  dynamic: whether to wait for the next frame
    where a run that started now would end after one more frame than a run from there ("shrinking tail", Li et al.,
    section 4.1).  stride: every how manyth frame of those that a free detector reaches is processed. Both choices
    are for one device.
    """

    devices: int = 1
    dynamic: bool = False
    stride: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.devices <= MOST_DEVICES:
            raise UsageError(f"The number of devices is {self.devices}.", f"Give 1 to {MOST_DEVICES}, or 0: no limit.")
        if self.stride < 1:
            raise UsageError(f"The stride is {self.stride}.", "Give 1 or more.")
        if self.devices != 1 and (self.dynamic or self.stride != 1):
            what = "Dynamic scheduling" if self.dynamic else "A stride"
            raise UsageError(
                f"{what} is for one device, not for {self.devices or 'any number'}.", "Choose one of them."
            )


@dataclass(frozen=True, eq=False)
class Schedule:
    """The outputs of a detector on one sequence, ordered by finishing time.

    inputs: (J,) int64 numbers of the processed frames.  finished: (J,) float64 seconds since the start of the sequence.
    run_times: (J,) float64 seconds.
    """

    inputs: np.ndarray
    finished: np.ndarray
    run_times: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


def simulate_all(
    lengths: Sequence[int], fps: float, run_times: RunTimes, policy: Policy, *, seed: int = 0
) -> list[Schedule]:
    """The schedule of every sequence. lengths: their numbers of frames.  seed: of the drawn run times.

    Run times are drawn by NumPy's legacy generator, seeded once, one for each run in this order, so that the official
    toolkit's schedules are reproduced.
    """
    generator, samples = np.random.RandomState(seed), np.array(run_times.samples)
    mean = run_times.mean
    return [simulate(length, fps, lambda: float(generator.choice(samples)), policy, mean=mean) for length in lengths]


def simulate(num_frames: int, fps: float, draw: Callable[[], float], policy: Policy, *, mean: float) -> Schedule:
    """The schedule of one sequence. draw: returns the run time of the next run.  mean: mean run time, in seconds."""
    if policy.devices == EVERY_FRAME:
        rows = [(i, i / fps, draw()) for i in range(num_frames)]
        rows = [(i, start + seconds, seconds) for i, start, seconds in rows]
    elif policy.devices == 1:
        rows = _one_device(num_frames, fps, draw, policy, mean * fps)
    else:
        rows = _devices(num_frames, fps, draw, policy.devices)
    rows.sort(key=lambda row: row[1])  # stable: of equal times, the earlier started comes first
    inputs, finished, seconds = ([row[column] for row in rows] for column in range(3))
    return Schedule(np.array(inputs, np.int64), np.array(finished, np.float64), np.array(seconds, np.float64))


_Rows = list[tuple[int, float, float]]


def _one_device(num_frames: int, fps: float, draw: Callable[[], float], policy: Policy, mean_frames: float) -> _Rows:
    """(input, finished, run time) of each run. mean_frames: the mean run time, in frames."""
    end, time, last, reached, rows = num_frames / fps, 0.0, -1, 0, _Rows()
    while time < end:
        position = time * fps
        frame = floor(position)
        if frame <= last:  # the detector is idle until the next frame
            frame = last + 1
            if frame >= num_frames:
                break
            time = frame / fps
        last = frame
        remainder = position - frame  # negative after idling, where waiting is no choice
        if policy.dynamic and 1 < mean_frames < floor(remainder + mean_frames):
            continue
        reached += 1
        if (reached - 1) % policy.stride:
            continue
        seconds = draw()
        time += seconds
        if time < end:
            rows.append((frame, time, seconds))
    return rows


def _devices(num_frames: int, fps: float, draw: Callable[[], float], devices: int) -> _Rows:
    """The same for several devices: each takes the newest frame that none has taken, as soon as it is free."""
    free, last, rows, end = [0.0] * devices, -1, _Rows(), num_frames / fps
    while True:
        time = heapq.heappop(free)
        frame = max(floor(time * fps), last + 1)
        if frame >= num_frames or time >= end:
            return rows
        if frame == last + 1:
            time = max(time, frame / fps)
        last, seconds = frame, draw()
        heapq.heappush(free, time + seconds)
        if time + seconds < end:
            rows.append((frame, time + seconds, seconds))
