"""Statistics of latencies, in memory that does not grow with their number."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from math import ceil

PERCENTILES = (50, 90, 99)
_STEP = 1e-4  # seconds; finer than a latency is measured
_RECENT = 300


class Latencies:
    """Percentiles of latencies: of all, exact to 0.1 ms, and of the last 300."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Counts one."""
        steps = round(seconds / _STEP)
        self._counts[steps] += 1
        self._recent.append(steps)
        self.count += 1

    def recent(self) -> dict[int, float]:
        """Percentile -> seconds, of the last 300; {} where there is none."""
        return _percentiles(Counter(self._recent), PERCENTILES)

    def all(self) -> dict[int, float]:
        """Percentile -> seconds, of all, with the greatest as the 100th; {} where there is none."""
        return _percentiles(self._counts, (*PERCENTILES, 100))


def _percentiles(counts: Counter[int], wanted: Iterable[int]) -> dict[int, float]:
    """The least value that so many percent of all do not exceed (nearest rank)."""
    total, rows, found = counts.total(), sorted(counts.items()), dict[int, float]()
    for percent in wanted if rows else ():
        rank, seen = ceil(percent / 100 * total), 0
        for value, count in rows:
            seen += count
            if seen >= rank:
                found[percent] = value * _STEP
                break
    return found
