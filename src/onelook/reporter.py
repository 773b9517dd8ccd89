"""How a function reports to its caller: messages, warnings, and the progress of long tasks.

The functions of `onelook.api` print nothing themselves. They call the methods of a `Reporter` that the caller gives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Protocol

FIRST_LINE_AFTER = 3.0  # seconds before a long task prints its first line of progress: short tasks print none
SECONDS_BETWEEN_LINES = 10.0


class Progress(Protocol):
    """A function that is called with how much of a task is done.

    done, total: in any unit, the same for both; total is 0 where it is unknown.  detail: a short text to show beside
    the bar, such as the losses of a training step.
    """

    def __call__(self, done: float, total: float, detail: str = "") -> None: ...


def ignore_progress(done: float, total: float, detail: str = "") -> None:
    """A `Progress` that shows nothing."""


class Reporter(Protocol):
    """Receives the messages, warnings and progress of a function. The command line shows them with progress bars."""

    def info(self, text: str) -> None:
        """Shows a message."""
        ...

    def warning(self, text: str) -> None:
        """Shows a warning: the work continues, but the user should check something."""
        ...

    def progress(self, title: str, *, every: float | None = None) -> AbstractContextManager[Progress]:
        """Shows the progress of a task while the `with` block runs.

        every: seconds between two lines of a reporter that prints lines; None is the first line after three seconds,
        then at most one in ten seconds.
        """
        ...


class SilentReporter:
    """A reporter that shows nothing."""

    def info(self, text: str) -> None:
        """Ignores the message."""

    def warning(self, text: str) -> None:
        """Ignores the warning."""

    @contextmanager
    def progress(self, title: str, *, every: float | None = None) -> Iterator[Progress]:
        """A progress that shows nothing."""
        yield ignore_progress


class PlainReporter:
    """A reporter that prints plain lines, without bars and colours: the default in Python and in notebooks.

    stream: where the lines go; None is standard error.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def info(self, text: str) -> None:
        """Prints the message."""
        print(text, file=self._stream or sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        """Prints the warning."""
        self.info(f"warning: {text}")

    @contextmanager
    def progress(self, title: str, *, every: float | None = None) -> Iterator[Progress]:
        """Prints a line after three seconds, then at most every ten seconds, or as `every` is given."""
        started = time.monotonic()
        next_line = started + (FIRST_LINE_AFTER if every is None else every)

        def show(done: float, total: float, detail: str = "") -> None:
            nonlocal next_line
            now = time.monotonic()
            if now >= next_line:
                next_line = now + (SECONDS_BETWEEN_LINES if every is None else every)
                share = f"{100.0 * done / total:.0f} %" if total else f"{done:.0f}"
                self.info(
                    " ".join(part for part in (f"{title}:", share, f"after {now - started:.0f} s", detail) if part)
                )

        yield show
