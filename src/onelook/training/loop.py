"""The training loop: a generator that one can read from top to bottom.

The caller logs, evaluates, saves and stops with an ordinary `for`; the loop knows no files and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from onelook.training.adversarial import adversarial_images
from onelook.training.train_state import TrainState
from onelook.training.multiscale import resize_batch
from onelook.training.optimizer import set_rates
from onelook.training.micro_batches import Batch, join_batches

if TYPE_CHECKING:
    from onelook.training.recipe import AnyLoss, Augment, Recipe


class Batches(Protocol):
    """Where batches come from. The same epoch gives the same batches, whatever was drawn before."""

    def __len__(self) -> int:
        """Batches of an epoch, for this process."""
        ...

    def epoch(self, epoch: int, augment: Augment, first: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based), from number `first` on."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """One optimizer step, as it was taken. `losses` stay on the device: reading them is the caller's to time.

    number: 0-based, over the whole training.  ends_epoch: whether an `Epoch` follows.  losses: every term, weighted,
    mean over the passes.  bad_gradient: whether the gradient was not finite although the losses were; a bool on the
    device.  images: rows of the data set that this process saw.  waited: seconds without a batch.
    """

    number: int
    epoch: int
    ends_epoch: bool
    losses: dict[str, Tensor]
    bad_gradient: Tensor
    rate: float
    size: tuple[int, int]
    images: tuple[int, ...]
    waited: float


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch (0-based)."""

    number: int


def train(recipe: Recipe, learner: TrainState, batches: Batches) -> Iterator[Step | Epoch]:
    """Trains from where the learner is to the end of the recipe.

    Stopping between two yields leaves the learner whole; going on later from its saved state gives the same numbers.
    """
    steps_per_epoch = -(-len(batches) // recipe.accumulate)
    base_rate = recipe.optimizer.lr_per_image * recipe.batch_size
    passes: Sequence[Batch]
    while learner.steps < recipe.epochs * steps_per_epoch:
        epoch, first = divmod(learner.steps, steps_per_epoch)
        loss = recipe.loss_at(epoch)
        learner.set_train_mode()
        stream = batches.epoch(epoch, recipe.augment_at(epoch), first * recipe.accumulate)
        asked = perf_counter()
        while passes := list(islice(stream, recipe.accumulate)):
            waited = perf_counter() - asked
            number = learner.steps
            torch.manual_seed(_seed(recipe.seed, number, learner.world.rank))
            rates = recipe.schedule(number, steps_per_epoch, recipe.epochs)
            set_rates(learner.optimizer, rates, base_rate)
            teaching = recipe.distillation_weight_at(number, steps_per_epoch)
            learner.begin_step(progress=number / (recipe.epochs * steps_per_epoch), teaching=teaching)
            size = _size(recipe, passes[0], number, recipe.epochs * steps_per_epoch)
            passes = _joined(recipe, passes, size)
            losses = _gradients(recipe, learner, passes, size, loss)
            bad = learner.update(torch.stack(list(losses.values())).sum())
            ends = learner.steps % steps_per_epoch == 0
            seen = tuple(int(row) for batch in passes for row in batch.indices)
            yield Step(number, epoch, ends, losses, bad, base_rate * rates.scale, size, seen, waited)
            asked = perf_counter()
        if learner.steps % steps_per_epoch:
            raise RuntimeError(
                f"epoch {epoch} ended after {learner.steps % steps_per_epoch} of {steps_per_epoch} steps"
            )
        yield Epoch(epoch)


def _gradients(
    recipe: Recipe,
    learner: TrainState,
    passes: Sequence[Batch],
    size: tuple[int, int],
    loss: AnyLoss,
) -> dict[str, Tensor]:
    """Forward and backward of one step's passes: their mean gradient in the learner, their mean losses returned."""
    device, attack = learner.world.device, recipe.adversarial
    parts = []
    for index, batch in enumerate(passes, 1):
        images = batch.images.to(device, non_blocking=True)
        targets = batch.targets.to(device, non_blocking=True)
        place = (recipe.seed, learner.steps, index, learner.world.rank)
        if attack is not None and (rate := attack.strength(learner.progress, place)) > 0:
            images, targets = resize_batch(images.float(), targets, size)
            images = adversarial_images(learner.detector, images, loss, rate, learner.autocast())
        with learner.gradient_sync(last=index == len(passes)):
            with learner.autocast():
                losses = learner.step(images, targets, size, loss, learner.distillation_weight)
            learner.backward(torch.stack(list(losses.values())).sum() / len(passes))
        parts.append(torch.stack([value.detach() for value in losses.values()]))
    return dict(zip(losses, (sum(parts[1:], parts[0]) / len(parts)).unbind()))


def _size(recipe: Recipe, batch: Batch, step: int, steps: int) -> tuple[int, int]:
    """(height, width) that the network sees in a step."""
    height, width = batch.images.shape[-2:]
    if recipe.multiscale is None:
        return height, width
    return recipe.multiscale.size((height, width), recipe.seed, step, steps)


def _joined(recipe: Recipe, passes: Sequence[Batch], size: tuple[int, int]) -> Sequence[Batch]:
    """The passes of a step as fewer equal ones, as long as one has no more pixels than a pass of the largest size."""
    if not recipe.join_passes or recipe.multiscale is None:
        return passes
    height, width = recipe.multiscale.largest((passes[0].images.shape[-2], passes[0].images.shape[-1]))
    room = height * width // (size[0] * size[1])
    count = max(number for number in range(1, len(passes) + 1) if len(passes) % number == 0 and number <= max(room, 1))
    return [join_batches(passes[first : first + count]) for first in range(0, len(passes), count)]


def _seed(seed: int, step: int, rank: int) -> int:
    """A seed for what layers draw in a step (dropout): nothing random has to be saved. The mixing is SplitMix64's."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**64
    mixed = (mixed ^ (mixed >> 31)) * 0x7FB5D329728EA185 % 2**64
    return mixed ^ (mixed >> 27)
