"""The record of a run (metrics, best epoch, flags), which checkpoints store, and the result of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from onelook.errors import UserError
from onelook.training.meter import LossMeter
from onelook.training.processes import ProcessGroup
from onelook.types import UNDEFINED

_OF_TRAINING = ("epoch", "lr", "images_per_second", "waited", "seconds")  # columns of a row beside losses and metrics


@dataclass
class RunRecord:
    """The history of a run: JSON, stored in the checkpoint. Epochs count from 0, in metrics.csv from 1.

    flags: of the command that started the run; --resume uses them again.  data: identity of the training and
    validation sets (`Dataset.identity`).  origin: what weights files say beside that of data, first weights and teacher
    (`onelook.training.origin`).  meters: of every process, inside an epoch.  misses: evaluations since the best one.
    budget: what a `TimePlan` needs again; {} without one.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    best: float | None = None
    best_epoch: int | None = None
    misses: int = 0
    seconds: float = 0.0
    meters: list[dict[str, Any]] | None = None
    finished: bool = False
    reason: str = "finished"
    names: list[str] = field(default_factory=list)
    budget: dict[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The numbers of the last evaluation; {} before the first."""
        for row in reversed(self.rows):
            found = {name: value for name, value in row.items() if name not in _OF_TRAINING and "/" not in name}
            if found:
                return found
        return {}

    def trained(self) -> dict[str, Any]:
        """When, how long and on what weights that are written now are trained, for their file."""
        origin = dict(self.origin)
        data = {
            part: None if identity is None else {**identity, **(origin.pop(part, None) or {})}
            for part, identity in self.data.items()
        }
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return {"date": date, "epoch": self.rows[-1]["epoch"] if self.rows else 0, **data, **origin}

    def update_best(self, value: float | None, epoch: int) -> bool:
        """Records the metric of an evaluation; returns whether it is the best so far. Only finite values can be.

        An undefined metric (a set without objects) counts neither as the best nor as a miss.
        """
        if value == UNDEFINED:
            return False
        if value is not None and math.isfinite(value) and (self.best is None or value > self.best):
            self.best, self.best_epoch, self.misses = value, epoch, 0
            return True
        self.misses += 1
        return False

    def loss_meter(self, process_group: ProcessGroup) -> LossMeter:
        """The loss meter of this process, with the losses of an interrupted epoch if there was one."""
        if not self.meters:
            return LossMeter()
        return LossMeter.from_dict(self.meters[process_group.rank if len(self.meters) == process_group.size else 0])

    def check_data(self, data: Mapping[str, Mapping[str, Any] | None], folder: Path) -> list[str]:
        """Compares the data sets ("training", "validation") with those the run was started with, and records them.

        UserError where a resumed run has other images. Other annotations of the same images give warnings, which are
        returned.
        """
        warnings = []
        for part, now in data.items():
            before = self.data.get(part, now)
            if before == now:
                continue
            if before is None or now is None or any(before[key] != now[key] for key in ("split", "images")):
                option = "--train-split, in Python split" if part == "training" else "--val-split, in Python validation"
                raise UserError(
                    f"The {part} data of the run in '{folder}' was {_described(before)}, now it is {_described(now)}.",
                    f"Resume with the data set and the split that the run was started with ({option}), or start a new "
                    "run in another folder (out).",
                )
            warnings.append(f"The {part} images or their annotations have changed since the run began.")
        self.data = dict(data)
        return warnings


def _described(data: Mapping[str, Any] | None) -> str:
    return "none" if data is None else f"{data['images']} images of the split '{data['split']}'"
