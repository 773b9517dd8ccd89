"""Learning-rate schedules as pure functions of the step: there is no scheduler state to save or restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rates:
    """Learning rate and momentum of one step.

    scale: factor on the optimizer's base rate.  bias_scale: the same for biases, None for `scale`.
    momentum: replaces the optimizer's own, None to leave it.
    """

    scale: float
    bias_scale: float | None = None
    momentum: float | None = None


def half_cosine(done: float, final: float) -> float:
    """A factor that falls from 1 to `final` along half a cosine; done: part of the way, 0 to 1."""
    return 1.0 - (1.0 - final) * 0.5 * (1.0 - math.cos(math.pi * done))


@dataclass(frozen=True)
class WarmCosine:
    """Cosine schedule with warm-up and a constant end (YOLOX's `yoloxwarmcos`; also its `warmcos` and `cos`).

    warmup_epochs: may be a fraction.  warmup_power: 2 is YOLOX's quadratic rise, 1 a linear one.
    warmup_start: factor on the base rate at step 0.  flat_epochs: the last epochs, which have the rate `floor`.
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

    def __call__(self, step: float, steps_per_epoch: int, epochs: int) -> Rates:
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
class OneCycle:
    """One-cycle schedule (YOLOv5, YOLOv7): falls to `floor` epoch by epoch, after a warm-up with momentum.

    floor: factor on the base rate at the end.  fall: half a cosine, or linear.  warmup_epochs, warmup_steps: the longer
    of the two is the warm-up.  In it the rate of weights rises from 0, the rate of biases falls from `warmup_bias` (a
    factor on the base rate), and the momentum rises from `warmup_momentum` to `momentum`, all linearly.

    `shortened` shortens both warm-ups. A step is an optimizer step of the whole batch, where official code counts the
    batches that are accumulated; with `grow_accumulation` (of a recipe) they are counted here too.
    """

    floor: float = 0.1
    fall: Literal["cosine", "line"] = "cosine"
    warmup_epochs: float = 3.0
    warmup_steps: int = 1000
    warmup_bias: float = 10.0
    warmup_momentum: float = 0.8
    momentum: float = 0.937

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.warmup_steps < 0:
            raise ValueError("warmup_epochs and warmup_steps cannot be negative")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is a factor between 0 and 1, not {self.floor}")

    def __call__(self, step: float, steps_per_epoch: int, epochs: int) -> Rates:
        scale = self.at(int(step // steps_per_epoch), epochs)
        warmup = self.warmup(steps_per_epoch)
        if step >= warmup:
            return Rates(scale, momentum=self.momentum)
        part = step / warmup
        momentum = self.warmup_momentum + part * (self.momentum - self.warmup_momentum)
        return Rates(part * scale, self.warmup_bias + part * (scale - self.warmup_bias), momentum)

    def warmup(self, steps_per_epoch: int) -> int:
        """The steps of the warm-up."""
        return max(round(self.warmup_epochs * steps_per_epoch), self.warmup_steps)

    def at(self, epoch: int, epochs: int) -> float:
        """The factor of an epoch (0-based) after the warm-up."""
        if self.fall == "line":
            return (1.0 - epoch / max(epochs - 1, 1)) * (1.0 - self.floor) + self.floor
        return (1.0 - math.cos(math.pi * epoch / epochs)) / 2 * (self.floor - 1.0) + 1.0


@dataclass(frozen=True)
class MultiStep:
    """Multi-step schedule: multiplies the rate by `factor` at each milestone, after a warm-up.

    milestones: ascending fractions of the training, e.g. (0.8, 0.9) as in Darknet's `steps` policy.  warmup_epochs,
    warmup_steps: the longer of the two is the warm-up.  warmup_power: 1 is a linear rise, 4 Darknet's burn-in.
    """

    milestones: tuple[float, ...] = (0.8, 0.9)
    factor: float = 0.1
    warmup_epochs: float = 0.0
    warmup_power: float = 1.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.warmup_steps < 0:
            raise ValueError("warmup_epochs and warmup_steps cannot be negative")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m <= 1 for m in self.milestones):
            raise ValueError(f"milestones are ascending fractions of the training, not {self.milestones}")

    def __call__(self, step: float, steps_per_epoch: int, epochs: int) -> Rates:
        warmup = max(self.warmup_epochs * steps_per_epoch, self.warmup_steps)
        if step < warmup:
            return Rates((step / warmup) ** self.warmup_power)
        passed = sum(step >= milestone * epochs * steps_per_epoch for milestone in self.milestones)
        return Rates(self.factor**passed)


@dataclass(frozen=True)
class Polynomial:
    """Polynomial decay: (1 - step / steps) ^ power (Darknet's `poly`, for classifiers), after a warm-up."""

    power: float = 4.0
    warmup_epochs: float = 0.0
    warmup_power: float = 4.0

    def __call__(self, step: float, steps_per_epoch: int, epochs: int) -> Rates:
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return Rates((step / warmup) ** self.warmup_power)
        return Rates(max(0.0, 1.0 - step / (steps_per_epoch * epochs)) ** self.power)


@dataclass(frozen=True)
class CosineRestarts:
    """Cosine annealing with warm restarts (SGDR, Loshchilov & Hutter 2017; Darknet's `sgdr`), after a warm-up.

    cycle: length of the first cycle, as a fraction of the training after the warm-up; 1 is cosine annealing without
    restarts.  growth: ratio of the lengths of a cycle and the one before.  floor: factor on the base rate at the end of
    each cycle.
    """

    cycle: float = 1.0
    growth: float = 2.0
    floor: float = 0.0
    warmup_epochs: float = 0.0
    warmup_power: float = 4.0

    def __post_init__(self) -> None:
        if not 0.001 <= self.cycle <= 1 or self.growth < 1 or not 0 <= self.floor <= 1:
            raise ValueError("cycle lies in [0.001, 1], growth is at least 1, floor lies between 0 and 1")

    def __call__(self, step: float, steps_per_epoch: int, epochs: int) -> Rates:
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return Rates((step / warmup) ** self.warmup_power)
        position = (step - warmup) / max(epochs * steps_per_epoch - warmup, 1.0)
        length = self.cycle
        while position >= length and length < 1:
            position -= length
            length *= self.growth
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(position / length, 1.0)))
        return Rates(self.floor + (1.0 - self.floor) * cosine)


@dataclass(frozen=True)
class Constant:
    """Constant schedule: the base rate in every step."""

    def __call__(self, step: float, steps_per_epoch: int, epochs: int) -> Rates:
        return Rates(1.0)
