"""The training loop: a generator of optimizer steps and ends of epochs.

The caller logs, evaluates, saves and stops in an ordinary `for` loop; this loop writes no files and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from onelook.training.adversarial import adversarial_images
from onelook.training.micro_batches import Batch, join_batches
from onelook.training.multiscale import resize_batch
from onelook.training.optimizer import set_rates
from onelook.training.step_plan import StepPlan
from onelook.training.train_state import TrainState

if TYPE_CHECKING:
    from onelook.training.budget import TimePlan
    from onelook.training.recipe import AnyLoss, Augment, Recipe


class Batches(Protocol):
    """A data loader: the batches of an epoch depend on its number only, not on the epochs before it."""

    def __len__(self) -> int:
        """The number of batches of an epoch, for this process."""
        ...

    def epoch(self, epoch: int, augment: Augment, first: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based), starting at number `first`."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """A finished optimizer step. `losses` are on the device: the caller decides when to copy them.

    number: 0-based, over the whole training.  ends_epoch: whether an `Epoch` follows.  losses: every weighted term, the
    mean over the micro-batches.  bad_gradient: whether the gradient was not finite although the losses were; a bool on
    the device.  images: rows of the data set in this process's batches.  waited: seconds of waiting for a batch.
    seconds: of the step itself, until its work was given to the device.
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
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch (0-based)."""

    number: int


def train(
    recipe: Recipe, train_state: TrainState, batches: Batches, time_plan: TimePlan | None = None
) -> Iterator[Step | Epoch]:
    """Trains a `TrainState` from its present step to the end of the recipe.

    time_plan: where the training has a budget of time; it ends with that then, within an epoch too, and what depends on
    the position in the training follows its progress.

    After each yield the state is complete: a training that is resumed from a checkpoint of it gives the same numbers.
    """
    plan = StepPlan(recipe, len(batches))
    base_rate = recipe.optimizer.lr_per_image * recipe.batch_size
    micro_batches: Sequence[Batch]
    waiting: list[Batch] = []  # micro-batches of an epoch that belong to the first step of the next one
    while train_state.steps < plan.total if time_plan is None else not time_plan.over:
        epoch, done = plan.place(train_state.steps)
        counts = plan.counts(epoch)
        phase = epoch if time_plan is None else time_plan.phase(recipe.epochs)
        loss = recipe.loss_at(phase)
        train_state.set_train_mode()
        start, first = plan.start(train_state.steps), epoch * plan.batches
        if start < first and not waiting:  # a resumed training
            waiting = list(batches.epoch(epoch - 1, recipe.augment_at(epoch - 1), start - first + plan.batches))
        own = batches.epoch(epoch, recipe.augment_at(phase), max(start - first, 0))
        stream: Iterator[Batch] = chain(waiting if start < first else [], own)
        started_waiting = perf_counter()
        for index in range(done, len(counts)):
            if time_plan is not None and recipe.is_closing(now := time_plan.phase(recipe.epochs)) > (
                recipe.is_closing(phase)
            ):  # the closing phase begins within an epoch
                phase, loss = now, recipe.loss_at(now)
                stream = batches.epoch(epoch, recipe.augment_at(now), index * recipe.accumulate)
            micro_batches = list(islice(stream, counts[index]))
            if not micro_batches:
                raise RuntimeError(f"epoch {epoch} ended after {index} of {len(counts)} steps")
            started = perf_counter()
            waited = started - started_waiting
            number = train_state.steps
            torch.manual_seed(_seed(recipe.seed, number, train_state.process_group.rank))
            position, left = plan.position(epoch, index), plan.total - number
            if time_plan is not None:
                position, left = time_plan.progress * recipe.epochs * plan.epoch_length, time_plan.steps_left
            rates = recipe.schedule(position, plan.epoch_length, recipe.epochs)
            set_rates(train_state.optimizer, rates, base_rate)
            distillation_weight = recipe.distillation_weight_at(position, plan.epoch_length)
            train_state.begin_step(
                progress=position / (recipe.epochs * plan.epoch_length),
                distillation_weight=distillation_weight,
                steps_left=left,
            )
            size = _size(recipe, micro_batches[0], number, number + left)
            micro_batches = _joined(recipe, micro_batches, size)
            losses = _gradients(recipe, train_state, micro_batches, size, loss)
            bad = train_state.optimizer_step(torch.stack(list(losses.values())).sum())
            if time_plan is not None:
                time_plan.finish_step()
            is_last = time_plan is not None and time_plan.over
            ends = is_last or index + 1 == len(counts)
            seen = tuple(int(row) for batch in micro_batches for row in batch.indices)
            rate, seconds = base_rate * rates.scale, perf_counter() - started
            yield Step(number, epoch, ends, losses, bad, rate, size, seen, waited, seconds)
            started_waiting = perf_counter()
            if is_last:
                break
        waiting = list(islice(stream, plan.left_over(epoch)))
        yield Epoch(epoch)


def _gradients(
    recipe: Recipe,
    train_state: TrainState,
    micro_batches: Sequence[Batch],
    size: tuple[int, int],
    loss: AnyLoss,
) -> dict[str, Tensor]:
    """Forward and backward passes of one step: accumulates the mean gradient, returns the mean losses.

    Where accumulation grows, the gradient is the sum over the micro-batches there are, divided by the full number:
    steps of fewer images change the weights less, as where the loss is multiplied by the images of a batch.
    """
    device, attack = train_state.process_group.device, recipe.adversarial
    parts = []
    divisor = recipe.accumulate if recipe.grow_accumulation else len(micro_batches)
    for index, batch in enumerate(micro_batches, 1):
        images = batch.images.to(device, non_blocking=True)
        targets = batch.targets.to(device, non_blocking=True)
        place = (recipe.seed, train_state.steps, index, train_state.process_group.rank)
        if attack is not None and (rate := attack.strength(train_state.progress, place)) > 0:
            images, targets = resize_batch(images.float(), targets, size)
            objective, autocast = loss.adversarial_loss, train_state.autocast()
            model = train_state.detector
            images = adversarial_images(model, images, objective, rate, autocast=autocast, limit=attack.limit)
        with train_state.gradient_sync(last=index == len(micro_batches)):
            with train_state.autocast():
                losses = train_state.step(images, targets, size, loss, train_state.distillation_weight)
            train_state.scaled(torch.stack(list(losses.values())).sum() / divisor).backward()
        parts.append(torch.stack([value.detach() for value in losses.values()]))
    return dict(zip(losses, (sum(parts[1:], parts[0]) / len(parts)).unbind()))


def _size(recipe: Recipe, batch: Batch, step: int, steps: int) -> tuple[int, int]:
    """(height, width) of the network's input in a step."""
    height, width = batch.images.shape[-2:]
    if recipe.multiscale is None:
        return height, width
    return recipe.multiscale.size((height, width), recipe.seed, step, steps)


def _joined(recipe: Recipe, micro_batches: Sequence[Batch], size: tuple[int, int]) -> Sequence[Batch]:
    """Joins a step's micro-batches where the input is small: none gets more pixels than one of the largest size."""
    if not recipe.join_micro_batches or recipe.multiscale is None:
        return micro_batches
    height, width = recipe.multiscale.largest((micro_batches[0].images.shape[-2], micro_batches[0].images.shape[-1]))
    room = height * width // (size[0] * size[1])
    count = max(
        number
        for number in range(1, len(micro_batches) + 1)
        if len(micro_batches) % number == 0 and number <= max(room, 1)
    )
    return [join_batches(micro_batches[first : first + count]) for first in range(0, len(micro_batches), count)]


def _seed(seed: int, step: int, rank: int) -> int:
    """The random seed of a step (for dropout), so that no random state has to be saved. Mixed as in SplitMix64."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**64
    mixed = (mixed ^ (mixed >> 31)) * 0x7FB5D329728EA185 % 2**64
    return mixed ^ (mixed >> 27)
