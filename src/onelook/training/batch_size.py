"""Finds the largest batch that fits into a GPU: doubles it until memory runs out, with whole training steps."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from onelook.errors import UserError
from onelook.training.processes import ProcessGroup
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.types import Targets

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.training.recipe import Recipe

TRIAL_OBJECTS = 50  # objects an image in a trial: more than most images have, so that real batches fit as well


def largest_batch(trial: Callable[[int], None], limit: int) -> int:
    """The largest of 1, 2, 4, ... up to `most` whose trial does not run out of memory. UserError if 1 does not fit."""
    found, batch = 0, 1
    while batch <= limit and _fits(trial, batch):
        found, batch = batch, 2 * batch
    if not found:
        raise UserError("Not even one image fits into the device's memory.", "Use a smaller size, or a smaller model.")
    return found


def _fits(trial: Callable[[int], None], batch: int) -> bool:
    try:
        trial(batch)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()  # tensors of a failed step
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def training_trial(
    recipe: Recipe, detector: Detector, device: torch.device, runtime: RuntimeOptions, teacher: Detector | None = None
) -> Callable[[int], None]:
    """A function that trains two steps with a batch of the given size, at the largest input size; on copies."""
    size = recipe.input_size if recipe.multiscale is None else recipe.multiscale.largest(recipe.input_size)
    single_process = ProcessGroup(0, 1, device)

    def trial(batch: int) -> None:
        own = replace(recipe, batch_size=batch, accumulate=1, join_micro_batches=False, sync_batch_norm=False)
        train_state = TrainState(own, copy.deepcopy(detector), single_process, runtime, teacher)
        train_state.set_train_mode()
        images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, device=device)
        targets = _targets(batch, size, recipe).to(device)
        loss = own.loss_at(own.epochs - 1)
        for step in range(2):  # the optimizer allocates its buffers in the first
            train_state.begin_step(progress=0.0, distillation_weight=own.distillation_weight_at(step, 2))
            with train_state.autocast():
                losses = train_state.step(images, targets, size, loss, train_state.distillation_weight)
            total: Tensor = torch.stack(list(losses.values())).sum()
            train_state.scaled(total).backward()
            train_state.optimizer_step(total)

    return trial


def _targets(batch: int, size: tuple[int, int], recipe: Recipe) -> Targets:
    rng = torch.Generator().manual_seed(0)
    count = min(TRIAL_OBJECTS, recipe.max_labels or TRIAL_OBJECTS)
    sides = torch.tensor((size[1], size[0]), dtype=torch.float32)
    corner = torch.rand(batch, count, 2, generator=rng) * 0.75 * sides
    boxes = torch.cat((corner, corner + sides / 4), 2)
    return Targets(boxes, torch.zeros(batch, count, dtype=torch.int64), torch.ones(batch, count, dtype=torch.bool))
