"""The result of a training run, as plain values; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from onelook import run_files
from onelook.types import text_repr


@dataclass(frozen=True)
class RunResult:
    """The result of a training; of its epochs so far where it was stopped.

    folder: of the run.  reason: "finished", "patience" (early stopping) or "interrupted".  epochs, steps: how many
    were trained.  seconds: of all sessions of the run.  metric, best: what decides which epoch is the best, and its
    best value; None where nothing was evaluated.  best_epoch: the epoch with that value; the first epoch is 1, as in
    metrics.csv and in all messages.  metrics: the numbers of the last evaluation, {} without one.  last: the last row
    of metrics.csv.
    """

    folder: Path
    reason: str
    epochs: int
    steps: int
    seconds: float
    metric: str
    best: float | None
    best_epoch: int | None
    metrics: Mapping[str, float | None]
    last: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        """The file of the best weights."""
        return self.folder / run_files.BEST_WEIGHTS

    @property
    def never_defined(self) -> bool:
        """Whether there were evaluations, in none of which the metric was defined."""
        return self.best is None and self.metric in self.last

    @property
    def exit_code(self) -> int:
        """0, or 130 after Ctrl-C."""
        return 130 if self.reason == "interrupted" else 0

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "folder": str(self.folder), "metrics": dict(self.metrics), "last": dict(self.last)}

    __repr__ = text_repr

    def __str__(self) -> str:
        if self.reason == "interrupted":
            return f"Stopped after {self.steps} steps. Nothing is lost: {self.folder} holds it all."
        why = "No better for a while, stopped early after" if self.reason == "patience" else "Trained for"
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        lines = [f"{why} {epochs} in {format_duration(self.seconds)}."]
        if self.best is not None and self.best_epoch is not None:
            lines.append(f"Best {self.metric} {self.best:.4f}, in epoch {self.best_epoch}.")
        elif self.never_defined:
            lines.append(f"{self.metric} was never defined on the validation set: best is the last epoch.")
        return "\n".join([*lines, f"Weights: {self.weights}"])


def format_duration(seconds: float) -> str:
    """'1:02:03', '2:03' or '3 s'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"
