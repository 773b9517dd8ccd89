"""Learning rates and momenta as pure functions of the step: there is no scheduler state to save or to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What the optimizer uses in one step.

    scale: factor on the optimizer's base rate.  bias_scale: the same for biases, None for `scale`.
    momentum: replaces the optimizer's own, None to leave it.
    """

    scale: float
    bias_scale: float | None = None
    momentum: float | None = None


@dataclass(frozen=True)
class WarmCosine:
    """Warm-up, half a cosine, and a flat end (YOLOX's `yoloxwarmcos`; its `warmcos` and `cos` are settings of it).

    warmup_epochs: may be a fraction.  warmup_power: 2 is YOLOX's quadratic rise, 1 a linear one.
    warmup_start: factor on the base rate at step 0.  flat_epochs: the last epochs, at the floor.
    floor: factor on the base rate.

    The first step of a warm-up from 0 has rate 0 (official behaviour: momentum buffers are filled all the same).
    """

    warmup_epochs: float = 5.0
    warmup_power: float = 2.0
    warmup_start: float = 0.0
    flat_epochs: float = 15.0
    floor: float = 0.05

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.flat_epochs < 0:
            raise ValueError("warmup_epochs and flat_epochs cannot be negative")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is a factor between 0 and 1, not {self.floor}")

    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> Rates:
        warmup = self.warmup_epochs * steps_per_epoch
        end = (epochs - self.flat_epochs) * steps_per_epoch
        if step <= warmup and warmup > 0:
            rise = (step / warmup) ** self.warmup_power
            return Rates(self.warmup_start + (1.0 - self.warmup_start) * rise)
        if step >= end:
            return Rates(self.floor)
        cosine = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (end - warmup)))
        return Rates(self.floor + (1.0 - self.floor) * cosine)


@dataclass(frozen=True)
class MultiStep:
    """The base rate times `factor` at each milestone, after a linear warm-up.

    milestones: fractions of the training, ascending, e.g. (0.8, 0.9) as Darknet's step policy.
    """

    milestones: tuple[float, ...] = (0.8, 0.9)
    factor: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m <= 1 for m in self.milestones):
            raise ValueError(f"milestones are ascending fractions of the training, not {self.milestones}")

    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> Rates:
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return Rates(step / warmup)
        passed = sum(step >= milestone * epochs * steps_per_epoch for milestone in self.milestones)
        return Rates(self.factor**passed)


@dataclass(frozen=True)
class Constant:
    """The base rate throughout."""

    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> Rates:
        return Rates(1.0)
