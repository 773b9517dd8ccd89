"""Progress and messages of a training: passed to a reporter, and the messages appended to `train.log`."""

from __future__ import annotations

import errno
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import torch

from onelook.errors import reason_of
from onelook.reporter import Progress, Reporter, ignore_progress
from onelook.training.monitor import StepState, TrainMonitor
from onelook.training.result import format_duration

SECONDS_BETWEEN_LINES = 60.0  # inside an epoch: in the log, and of a reporter that prints lines


class TrainLog:
    """Passes messages and the progress of a training to a reporter, and appends the messages to a log file.

    reporter: a silent one in all processes but the main one.  path: the log file; None writes none.  monitor: what
    follows the training besides; None is nothing.
    """

    def __init__(self, reporter: Reporter, path: Path | None, device: torch.device) -> None:
        self.reporter = reporter
        self.device = device
        self.path = path
        self.monitor: TrainMonitor | None = None
        self._place = (0, 0)  # the epoch and the number of epochs
        self._epoch = ExitStack()
        self._progress: Progress = ignore_progress
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
            if not self._log_failed:
                self.reporter.warning(f"'{self.path}' could not be written ({reason_of(error)}).")
            self._log_failed = True

    def info(self, text: str) -> None:
        """Reports a message and appends it to the log file."""
        self.log(text)
        with _closed_terminal_ignored():
            self.reporter.info(text)

    def warning(self, text: str) -> None:
        """Reports a warning and appends it to the log file."""
        self.log(f"warning: {text}")
        if self.monitor is not None:
            self.monitor.warning(text)
        with _closed_terminal_ignored():
            self.reporter.warning(text)

    def begin_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Starts the progress of an epoch (0-based) of which `done` steps are already taken."""
        self.end_epoch()
        self._place = (epoch, epochs)
        shown = self.reporter.progress(f"epoch {epoch + 1}/{epochs}", every=SECONDS_BETWEEN_LINES)
        with _closed_terminal_ignored():
            self._progress = self._epoch.enter_context(shown)
            self._progress(done, steps, f"{done}/{steps}")

    def step(self, number: int, steps: int, losses: Mapping[str, float], images_per_second: float, left: float) -> None:
        """Reports that step `number` of the epoch is done; the log has a line every minute."""
        state = f"{format_losses(losses)}  {images_per_second:.1f} img/s  {format_duration(left)} left  {self.memory()}"
        with _closed_terminal_ignored():
            self._progress(number, steps, f"{number}/{steps}  {state}")
        if self.monitor is not None:
            self.monitor.step(StepState(*self._place, number, steps, losses, images_per_second, left))
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.log(f"  step {number}/{steps}  {state}")

    def end_epoch(self) -> None:
        """Ends the progress of the epoch."""
        with _closed_terminal_ignored():
            self._epoch.close()
        if self.monitor is not None:
            self.monitor.end_epoch()
        self._progress = ignore_progress
        self._last_line = time.monotonic()

    def memory(self) -> str:
        """The peak memory so far: of the CUDA device, or of this process."""
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return f"{peak / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB"


@contextmanager
def _closed_terminal_ignored() -> Iterator[None]:
    """Goes on where the terminal is gone: it has sent SIGHUP, and the training is about to be saved."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def format_losses(losses: Mapping[str, float]) -> str:
    """'loss 3.21 (box 1.20, objectness 1.51, classes 0.50)'."""
    parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items() if name != "total")
    return f"loss {losses.get('total', 0.0):.3f}" + (f" ({parts})" if parts else "")
