"""The time of a training, for its messages."""

from __future__ import annotations

import time


class Clock:
    """Measures the time of a run over all its sessions and estimates the time that remains."""

    def __init__(self, before: float, done: int, total: int) -> None:
        self._before, self._done, self._total = before, done, total
        self._begin = time.monotonic()

    def seconds(self) -> float:
        """Seconds so far, with earlier sessions."""
        return self._before + time.monotonic() - self._begin

    def seconds_per_step(self, done: int) -> float:
        """Seconds a step in this session, with evaluations."""
        return (time.monotonic() - self._begin) / max(done - self._done, 1)

    def remaining(self, done: int) -> float:
        """Estimated seconds until the last step."""
        return self.seconds_per_step(done) * (self._total - done)
