"""Progress and messages of a training: a progress bar on a terminal, plain lines elsewhere, and `train.log`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

SECONDS_BETWEEN_LINES = 60.0  # between progress lines inside an epoch, where there is no bar


class TrainLog:
    """Prints messages and the progress of a training, and appends the messages to a log file.

    console: None prints nothing (as in all processes but the main one).  path: the log file; None writes none.
    """

    def __init__(self, console: Console | None, path: Path | None, device: torch.device) -> None:
        self.console = console
        self.device = device
        self.path = path
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()
        self._log_failed = False

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_epoch()

    def log(self, text: str) -> None:
        """Appends to the log file only. Where it cannot be written, there is one warning, and training goes on."""
        if self.path is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{stamp} {line}\n" for line in text.splitlines()))
        except OSError as error:
            if not self._log_failed and self.console is not None:
                reason = f"warning: '{self.path}' could not be written ({error.strerror or error})."
                self.console.print(reason, style="yellow", markup=False, soft_wrap=True)
            self._log_failed = True

    def info(self, text: str, style: str = "") -> None:
        """Prints a message and appends it to the log file."""
        self.log(text)
        if self.console is not None:
            self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        """Prints a warning and appends it to the log file."""
        self.info(f"warning: {text}", style="yellow")

    def begin_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Starts a progress bar for an epoch (0-based) of which `done` steps are already taken."""
        if self.console is None or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=steps, completed=done, epoch=f"{epoch + 1}/{epochs}", state="")

    def step(self, number: int, steps: int, losses: Mapping[str, float], images_per_second: float, left: float) -> None:
        """Updates the bar to step `number` of the epoch; without a bar, prints a line every minute."""
        state = f"{format_losses(losses)}  {images_per_second:.1f} img/s  {format_duration(left)} left  {self.memory()}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=number, state=escape(state))
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.info(f"  step {number}/{steps}  {state}")

    def end_epoch(self) -> None:
        """Removes the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        self._last_line = time.monotonic()

    def memory(self) -> str:
        """The peak memory so far: of the CUDA device, or of this process."""
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB"


def format_losses(losses: Mapping[str, float]) -> str:
    """'loss 3.21 (box 1.20, objectness 1.51, classes 0.50)'."""
    parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items() if name != "total")
    return f"loss {losses.get('total', 0.0):.3f}" + (f" ({parts})" if parts else "")


def format_duration(seconds: float) -> str:
    """'1:02:03', '2:03' or '3 s'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"
