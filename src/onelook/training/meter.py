"""Collects the losses of an epoch; they are copied from the device seldom, many steps at once."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from onelook.errors import UserError
from onelook.training.loop import Step


class NonFiniteLossError(UserError):
    """A loss is NaN or infinite; the message names the images of the step."""


@dataclass
class LossMeter:
    """Averages the losses of an epoch, and of the last steps.

    `add` leaves a step's losses on the device; `read` copies all pending ones to the host in one transfer.

    waited: seconds in which the training waited for batches.  starting: the part of them for the first batch of a
    session, when the workers start.
    """

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    waited: float = 0.0
    starting: float = 0.0
    recent: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=20))
    _pending: list[Step] = field(default_factory=list)

    def add(self, step: Step, *, first: bool = False) -> None:
        """Adds a step, without a synchronisation with the device; first: whether it is the first of a session."""
        self._pending.append(step)
        self.waited += step.waited
        if first:
            self.starting += step.waited

    def read(self) -> list[tuple[Step, dict[str, float]]]:
        """Reads all pending steps; returns those with a loss or a gradient that is not finite, with their losses."""
        steps, self._pending = self._pending, []
        if not steps:
            return []
        rows = [torch.stack([*step.losses.values(), step.bad_gradient.float()]) for step in steps]
        broken = []
        for step, (*row, bad_gradient) in zip(steps, torch.stack(rows).tolist()):
            losses = dict(zip(step.losses, row))
            if bad_gradient or not all(math.isfinite(value) for value in row):
                broken.append((step, losses))
                continue
            self.steps += 1
            self.recent.append(losses)
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        return broken

    def means(self) -> dict[str, float]:
        """The mean of every loss term over the epoch so far, and their sum, "total"."""
        means = {name: value / max(self.steps, 1) for name, value in self.sums.items()}
        return {"total": sum(means.values())} | means

    def recent_means(self) -> dict[str, float]:
        """The same over the last 20 steps."""
        names = self.recent[-1] if self.recent else {}
        means = {name: sum(row.get(name, 0.0) for row in self.recent) / len(self.recent) for name in names}
        return {"total": sum(means.values())} | means

    def to_dict(self) -> dict[str, Any]:
        """The content that a checkpoint inside an epoch stores."""
        return {"sums": self.sums, "steps": self.steps, "waited": self.waited, "starting": self.starting}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> LossMeter:
        """Restores the meter of an interrupted epoch."""
        starting = float(data.get("starting", 0.0))
        return LossMeter(dict(data["sums"]), int(data["steps"]), float(data["waited"]), starting)
