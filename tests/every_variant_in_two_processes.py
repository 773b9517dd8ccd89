"""What each of two processes does in `test_every_variant_works.py`: some steps of every model, narrowed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from networks import narrow
from onelook.networks.build import build
from onelook.networks.variants import VARIANTS, variant
from onelook.recipes import default_recipe
from onelook.training.loop import Step, train
from onelook.training.processes import ProcessGroup, join_process_group
from onelook.training.train_state import RuntimeOptions, TrainState
from training import MemoryBatch, NoAugment, Squares

STEPS = 2  # the rate of some warm-ups begins at 0


class SomeEmpty(Squares):
    """Squares, of which the second process sees none in the second batch."""

    def epoch(self, epoch: int, augment: object, first: int):
        for number, batch in enumerate(super().epoch(epoch, augment, first), first):
            hides = number == 1 and self.rank == 1
            targets = replace(batch.targets, valid=batch.targets.valid & (not hides))
            yield MemoryBatch(batch.images, targets, batch.indices)


def digests(name: str, process_group: ProcessGroup) -> list[float]:
    """A number that says what the weights are: before the first step, and after every one."""
    recipe = default_recipe(name)
    model = replace(narrow(variant(name).architecture), num_classes=3)
    recipe = replace(recipe, model=model, augment=NoAugment(), closing=None, multiscale=None, batch_size=4, epochs=1)
    torch.manual_seed(0)
    detector = build(recipe.model, classes=("red", "green", "blue"))
    train_state = TrainState(recipe, detector, process_group, RuntimeOptions())

    def digest() -> float:
        return float(torch.stack([part.detach().double().abs().sum() for part in detector.parameters()]).sum())

    found = [digest()]
    for event in train(
        recipe, train_state, SomeEmpty(count=4 * STEPS, batch=4, rank=process_group.rank, world=process_group.size)
    ):
        if isinstance(event, Step):
            assert all(bool(loss.isfinite()) for loss in event.losses.values()), (name, event.losses)
            found.append(digest())
        if len(found) == STEPS + 1:
            break
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with join_process_group("cpu") as process_group:
        found = {name: digests(name, process_group) for name in VARIANTS}
        (folder / f"{process_group.size}-{process_group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
