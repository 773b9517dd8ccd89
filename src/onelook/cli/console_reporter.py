"""The reporter of the command line: messages and progress bars on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onelook.reporter import PlainReporter, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

BAR_AFTER = 0.5  # seconds before a bar appears: short tasks show none
BETWEEN_UPDATES = 0.1  # seconds


class ConsoleReporter:
    """A reporter that draws progress bars on a terminal and prints plain lines elsewhere.

    console: where to print; None is standard error. Rich is imported when something is printed with it.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    @property
    def console(self) -> Console:
        """The console that everything is printed on."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console

    def info(self, text: str) -> None:
        """Prints the message. Lines are not wrapped, so that paths can be copied."""
        self.console.print(text, markup=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        """Prints the warning."""
        from rich.text import Text

        self.console.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)

    @contextmanager
    def progress(self, title: str, *, every: float | None = None) -> Iterator[Progress]:
        """Draws a bar on a terminal; prints lines elsewhere, as `PlainReporter` does."""
        if not (sys.stderr.isatty() if self._console is None else self._console.is_terminal):
            stream = None if self._console is None else self._console.file
            with PlainReporter(stream).progress(title, every=every) as lines:
                yield lines
            return
        bar = _Bar(self.console, title)
        try:
            yield bar
        finally:
            bar.close()


class _Bar:
    """A bar that appears after half a second and is removed at the end.

    Beside it stands the detail that the task gives, such as the losses of a step; otherwise the share that is done and
    the time that is left.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._next = time.monotonic() + BAR_AFTER
        self._bar: RichProgress | None = None

    def __call__(self, done: float, total: float, detail: str = "") -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + BETWEEN_UPDATES
        if self._bar is None:
            self._bar = _rich_bar(self._console, with_detail=bool(detail))
            self._bar.start()
            self._bar.add_task(self._title, total=total or None, detail=detail)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None, detail=detail)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()


def _rich_bar(console: Console, *, with_detail: bool) -> RichProgress:
    """Makes a progress bar of Rich. It is imported here, because most commands draw none and the import is slow."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    title = TextColumn("{task.description}", markup=False)
    if with_detail:
        columns = (title, BarColumn(bar_width=24), TextColumn("{task.fields[detail]}", markup=False))
        return RichProgress(*columns, console=console, transient=True)
    share = (TaskProgressColumn(), TimeRemainingColumn())
    return RichProgress(title, BarColumn(), *share, console=console, transient=True)
