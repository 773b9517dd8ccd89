"""Progress of long builds and checks: a bar on a terminal, now and then a plain line elsewhere, silence when short."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Called with how much is done and how much there is, in any unit."""

    def __call__(self, done: float, total: float) -> None: ...


def silent(done: float, total: float) -> None:
    """A progress that nobody sees."""


class _Lines:
    """A plain line at most every ten seconds, the first after three."""

    def __init__(self, title: str) -> None:
        self._title, self._next, self._started = title, time.monotonic() + 3.0, time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 10.0
            share = 100.0 * done / total if total else 100.0
            print(f"{self._title}: {share:.0f} % after {now - self._started:.0f} s", file=sys.stderr, flush=True)


class _Bar:
    """A bar that appears after half a second, so that short work shows nothing. `rich` is imported only then."""

    def __init__(self, title: str) -> None:
        self._title, self._from, self._next = title, time.monotonic() + 0.5, 0.0
        self._bar: RichProgress | None = None

    def __call__(self, done: float, total: float) -> None:
        now = time.monotonic()
        if now < max(self._from, self._next):
            return
        self._next = now + 0.1
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task(self._title, total=total)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A progress display on standard error with this title."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    bar = _Bar(title)
    try:
        yield bar
    finally:
        bar.close()
