"""What a run remembers of itself, and what there is to say of it in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from onelook.errors import UserError
from onelook.training.train_log import format_duration
from onelook.training.meter import LossMeter
from onelook.training.processes import ProcessGroup
from onelook.types import UNDEFINED


@dataclass
class RunRecord:
    """What a run has seen so far: JSON, saved with the state. Epochs count from 0, metrics.csv from 1.

    flags: of the command that began the run, so that going on needs none.  data: what it learns from and is judged on
    (`Dataset.identity`).  meters: of every process, inside an epoch.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    best: float | None = None
    best_epoch: int | None = None
    misses: int = 0
    seconds: float = 0.0
    meters: list[dict[str, Any]] | None = None
    finished: bool = False
    reason: str = "finished"
    names: list[str] = field(default_factory=list)

    def update_best(self, value: float | None, epoch: int) -> bool:
        """Notes an evaluation; whether it is the best so far. What is not finite is never best.

        What no object defines is no judgement: neither the best nor a miss.
        """
        if value == UNDEFINED:
            return False
        if value is not None and math.isfinite(value) and (self.best is None or value > self.best):
            self.best, self.best_epoch, self.misses = value, epoch, 0
            return True
        self.misses += 1
        return False

    def loss_meter(self, world: ProcessGroup) -> LossMeter:
        """The losses that a process had in the epoch that was broken off."""
        if not self.meters:
            return LossMeter()
        return LossMeter.from_dict(self.meters[world.rank if len(self.meters) == world.size else 0])

    def check_data(self, data: Mapping[str, Mapping[str, Any] | None], folder: Path) -> list[str]:
        """Notes what the run learns from and is judged on, by its part ("training", "validation").

        A run that goes on must have the same images: UserError where it has not. Other boxes on them are its user's to
        know: warnings, returned.
        """
        warnings = []
        for part, now in data.items():
            before = self.data.get(part, now)
            if before == now:
                continue
            if before is None or now is None or any(before[key] != now[key] for key in ("split", "images")):
                flag = "--train-split" if part == "training" else "--val-split"
                raise UserError(
                    f"The {part} of the run in '{folder}' was with {_told(before)}, now it is with {_told(now)}.",
                    f"Resume with the data set and the split that the run was started with ({flag}), or start a new "
                    f"run with --out.",
                )
            warnings.append(f"The {part} images or their annotations have changed since the run began.")
        self.data = dict(data)
        return warnings


def _told(data: Mapping[str, Any] | None) -> str:
    return "nothing" if data is None else f"{data['images']} images of the split '{data['split']}'"


@dataclass(frozen=True)
class TrainResult:
    """The result of a training, or of the part of it until it was stopped.

    reason: "finished", "patience" (early stopping) or "interrupted".  metric, best: what best means, and its value.
    """

    folder: Path
    reason: str
    epochs: int
    steps: int
    seconds: float
    metric: str
    best: float | None
    best_epoch: int | None
    last: Mapping[str, Any]

    @property
    def never_defined(self) -> bool:
        """Whether there were evaluations, none of which could tell the metric."""
        return self.best is None and self.metric in self.last

    @property
    def exit_code(self) -> int:
        return 130 if self.reason == "interrupted" else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "folder": str(self.folder), "last": dict(self.last)}

    def show(self, console: Console) -> None:
        """Prints where things are, and how good."""
        if self.reason == "interrupted":
            stopped = f"Stopped after {self.steps} steps. Nothing is lost: {self.folder} holds it all."
            console.print(stopped, soft_wrap=True, markup=False)
            return
        why = "No better for a while, stopped early after" if self.reason == "patience" else "Trained for"
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        console.print(f"{why} {epochs} in {format_duration(self.seconds)}.")
        if self.best is not None and self.best_epoch is not None:
            console.print(f"Best {self.metric} {self.best:.4f}, in epoch {self.best_epoch + 1}.")
        elif self.never_defined:
            console.print(f"{self.metric} was never defined on the validation set: best is the last epoch.")
        console.print(f"Weights: {self.folder / 'best.safetensors'}", soft_wrap=True, markup=False)
