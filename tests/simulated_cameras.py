"""A clock, cameras and files that are simulated: nothing depends on how fast the machine is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onelook.predict.live_capture import CapturedFrame, End
from onelook.predict.sources import Source, Video

CAMERA = Source("live", "0", "camera0", alone=True)
VIDEO = Video(30.0, 0, 48, 64)


class Clock:
    """A clock that only sleeping and working move."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


class Camera:
    """Frames 30 times a second from its opening on, `count` of them; then it ends or stalls."""

    delay = 0.0

    def __init__(self, clock: Clock, count: float = math.inf, end: End | None = None) -> None:
        self.clock, self.count, self.end, self.opened = clock, count, end, clock.now()
        self.taken, self.closed = -1, False

    def frame(self, number: int) -> CapturedFrame:
        return CapturedFrame(
            np.full((48, 64, 3), number % 256, np.uint8), number, number / 30, self.opened + number / 30, VIDEO
        )

    @property
    def last(self) -> int:
        """The number of the newest frame; -1 before the first."""
        return int(min(self.count, math.floor((self.clock.now() - self.opened) * 30 + 1e-6) + 1)) - 1

    @property
    def newest(self) -> CapturedFrame | None:
        return None if self.last < 0 else self.frame(self.last)

    def take(self, timeout: float | None) -> CapturedFrame | End | None:
        if self.last == self.taken and self.last + 1 < self.count:
            self.clock.time = self.opened + (self.taken + 1) / 30
        if self.last > self.taken:
            self.taken = self.last
            return self.frame(self.last)
        if self.end is None:
            assert timeout is not None
            self.clock.time += timeout
        return self.end

    def close(self) -> None:
        self.closed = True


class Player:
    """A capture whose frames take `work` seconds to decode, at these times in the file; no thread, no real time."""

    note = ""

    def __init__(self, clock: Clock, times: Sequence[float], work: float = 0.0, frames: int = 0) -> None:
        self.clock, self.times, self.work, self.place = clock, times, work, -1
        self.video, self.released = Video(10.0, frames, 48, 64), False

    def grab(self) -> bool:
        self.clock.time += self.work
        self.place += 1
        return self.place < len(self.times)

    def retrieve(self) -> np.ndarray:
        return np.zeros((48, 64, 3), np.uint8)

    def read(self) -> np.ndarray | None:
        return self.retrieve() if self.grab() else None

    def seconds(self) -> float:
        return self.times[self.place]

    def release(self) -> None:
        self.released = True
