"""The steps of a training: which micro-batches of which epoch each of them has."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from onelook.training.schedule import OneCycle

if TYPE_CHECKING:
    from onelook.training.recipe import Recipe


class StepPlan:
    """Divides the micro-batches of every epoch into optimizer steps.

    batches: micro-batches of an epoch, for one process.  full_steps: steps of an epoch in which every step has all of
    `recipe.accumulate` micro-batches; schedules count in such steps.

    With `grow_accumulation`, micro-batch i of the whole training ends a step where i + 1 is a multiple of a number that
    grows linearly during the warm-up, from 1 to nominal batch / micro-batch, rounded (YOLOv7's code). No step reaches
    into the next epoch.
    """

    def __init__(self, recipe: Recipe, batches: int) -> None:
        self.recipe, self.batches = recipe, batches
        self.full_steps = -(-batches // recipe.accumulate)

    @cached_property
    def _growing(self) -> list[list[int]]:
        """For the epochs in which the accumulation grows: how many micro-batches are done after each of their steps."""
        recipe = self.recipe
        schedule, count = recipe.schedule, recipe.accumulate
        if not recipe.grow_accumulation or count == 1 or not isinstance(schedule, OneCycle):
            return []
        assert recipe.nominal_batch is not None  # the recipe has checked it
        target = recipe.nominal_batch * count / recipe.batch_size
        warmup = schedule.warmup(self.full_steps) * count
        epochs = []
        for first in range(0, min(warmup, recipe.epochs * self.batches), self.batches):
            ends = []
            for index in range(self.batches):
                number = first + index
                grown = max(1, round(1 + (target - 1) * min(number / warmup, 1.0)))
                if (number + 1) % grown == 0 or index + 1 == self.batches:
                    ends.append(index + 1)
            epochs.append(ends)
        return epochs

    @cached_property
    def _before(self) -> list[int]:
        """The steps before each of these epochs, and before the first one after them."""
        return list(accumulate((len(ends) for ends in self._growing), initial=0))

    @property
    def total(self) -> int:
        """The steps of the whole training."""
        return self._before[-1] + (self.recipe.epochs - len(self._growing)) * self.full_steps

    def counts(self, epoch: int) -> list[int]:
        """How many micro-batches each step of an epoch (0-based) has."""
        if epoch < len(self._growing):
            return [end - start for start, end in pairwise([0, *self._growing[epoch]])]
        count = self.recipe.accumulate
        return [min(count, self.batches - first) for first in range(0, self.batches, count)]

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step of the training, and its number in that epoch, both 0-based."""
        growing = len(self._growing)
        if step >= self._before[growing]:
            epoch, index = divmod(step - self._before[growing], self.full_steps)
            return growing + epoch, index
        epoch = next(number for number in range(growing) if step < self._before[number + 1])
        return epoch, step - self._before[epoch]

    def position(self, epoch: int, index: int) -> float:
        """How far the training is at a step, in full steps: a whole number wherever accumulation does not grow.

        Where it grows, that of the step's last micro-batch, as the official code counts.
        """
        start = epoch * self.full_steps
        if epoch >= len(self._growing):
            return start + index
        return start + (self._growing[epoch][index] - 1) / self.recipe.accumulate
