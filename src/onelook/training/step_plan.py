"""The steps of a training: which micro-batches of which epoch each of them has."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from onelook.training.schedule import OneCycle

if TYPE_CHECKING:
    from onelook.training.recipe import Recipe


class StepPlan:
    """Divides the micro-batches of a training into optimizer steps.

    batches: micro-batches of an epoch, for one process.  full_steps: steps of an epoch in which every step has all of
    `recipe.accumulate` micro-batches.  epoch_length: an epoch in the unit of `position`, which schedules count in:
    full steps, or micro-batches where the accumulation grows.

    Without `grow_accumulation`, each epoch begins with a new step, and the last one may have fewer micro-batches. With
    it, the rule is that of YOLOv7's code: micro-batch i of the whole training, from 0 on, ends a step where i is a
    multiple of a number that grows linearly during the warm-up from 1 to nominal batch / micro-batch, rounded. So the
    first step has one micro-batch, a step may begin in one epoch and end in the next, and what is left after the last
    step of the training is not used. Only where an epoch is shorter than two full steps, or would have no step, which a
    short warm-up to many micro-batches can bring about, does each end with a step.
    """

    def __init__(self, recipe: Recipe, batches: int) -> None:
        self.recipe, self.batches = recipe, batches
        self.full_steps = -(-batches // recipe.accumulate)
        self._grows = recipe.grow_accumulation and recipe.accumulate > 1
        self.epoch_length = batches if self._grows else self.full_steps

    @cached_property
    def _ends(self) -> np.ndarray:
        """(S,) where the accumulation grows: the last micro-batch of every step of the training."""
        recipe, count, whole = self.recipe, self.recipe.accumulate, self.recipe.epochs * self.batches
        assert recipe.nominal_batch is not None and isinstance(recipe.schedule, OneCycle)  # the recipe has checked it
        target = recipe.nominal_batch * count / recipe.batch_size
        warmup = recipe.schedule.warmup(self.batches)
        first = np.arange(min(warmup, whole))
        grown = np.maximum(np.round(1 + (target - 1) * first / max(warmup, 1)), 1).astype(np.int64)
        after = np.arange(-(-warmup // count) * count, whole, count)
        ends = np.concatenate([first[first % grown == 0], after])
        of_epochs = np.bincount(ends // self.batches, minlength=recipe.epochs)
        if self.batches < 2 * count or np.min(of_epochs, initial=1) == 0:
            ends = np.union1d(ends, np.arange(self.batches - 1, whole, self.batches))
        return ends

    def _before(self, epoch: int) -> int:
        """The steps that end before an epoch (0-based)."""
        return int(np.searchsorted(self._ends, epoch * self.batches)) if self._grows else epoch * self.full_steps

    @property
    def total(self) -> int:
        """The steps of the whole training."""
        return self._before(self.recipe.epochs)

    def counts(self, epoch: int) -> list[int]:
        """How many micro-batches each step that ends in an epoch (0-based) has."""
        count = self.recipe.accumulate
        if not self._grows:
            return [min(count, self.batches - first) for first in range(0, self.batches, count)]
        first, last = self._before(epoch), self._before(epoch + 1)
        return [int(n) for n in np.diff(self._ends[max(first - 1, 0) : last], prepend=-1 if first == 0 else [])]

    def place(self, step: int) -> tuple[int, int]:
        """The epoch in which a step of the training ends, and its number in that epoch, both 0-based.

        Behind the last step, it is the first of an epoch after the training.
        """
        if self._grows:
            epoch = int(self._ends[step]) // self.batches if step < self.total else self.recipe.epochs
        else:
            epoch = step // self.full_steps
        return epoch, step - self._before(epoch)

    def start(self, step: int) -> int:
        """The first micro-batch of a step, 0-based over the whole training."""
        if self._grows:
            return int(self._ends[step - 1]) + 1 if step else 0
        epoch, index = divmod(step, self.full_steps)
        return epoch * self.batches + index * self.recipe.accumulate

    def left_over(self, epoch: int) -> int:
        """How many micro-batches of an epoch (0-based) belong to the first step of the next one."""
        last = self._before(epoch + 1)
        return (epoch + 1) * self.batches - self.start(last) if self._grows and last < self.total else 0

    def position(self, epoch: int, index: int) -> float:
        """How far the training is at a step: the number of the step, or of its last micro-batch where it grows."""
        step = self._before(epoch) + index
        return float(self._ends[step]) if self._grows else step
