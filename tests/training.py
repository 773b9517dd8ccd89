"""A small training for tests: a narrow YOLOX and images of coloured squares, made in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from onelook.assign.simota import SimOta
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.networks.build import build
from onelook.networks.detector import Detector
from onelook.networks.yolox.architecture import Yolox
from onelook.training.optimizer import Sgd
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Closing, Recipe
from onelook.training.schedule import WarmCosine
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.types import Sample, Targets

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)
TINY = Yolox(depth=0.33, width=0.125, num_classes=3, size=(64, 64))


@dataclass(frozen=True)
class NoAugment:
    """The sample as it is."""

    def __call__(
        self, sample: Sample, draw: Callable[[np.random.Generator], Sample], rng: np.random.Generator
    ) -> Sample:
        return sample


@dataclass(frozen=True)
class MemoryBatch:
    images: torch.Tensor
    targets: Targets
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Squares:
    """Batches of images with one square each, whose colour is its class; shuffled by (seed, epoch).

    Rank r of w takes rows r, r + w, ... of every global batch.
    """

    count: int = 24
    batch: int = 8
    size: int = 64
    rank: int = 0
    world: int = 1
    broken: int | None = None

    def __len__(self) -> int:
        return self.count // self.batch

    def epoch(self, epoch: int, augment: object, first: int) -> Iterator[MemoryBatch]:
        order = np.random.default_rng((7, epoch)).permutation(self.count)
        for number in range(first, len(self)):
            rows = order[number * self.batch : (number + 1) * self.batch][self.rank :: self.world]
            yield self.take(tuple(int(row) for row in rows))

    def take(self, rows: tuple[int, ...]) -> MemoryBatch:
        images = torch.zeros(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        boxes, labels = torch.zeros(len(rows), 2, 4), torch.zeros(len(rows), 2, dtype=torch.int64)
        valid = torch.zeros(len(rows), 2, dtype=torch.bool)
        for place, row in enumerate(rows):
            rng = np.random.default_rng(row)
            side = int(rng.integers(12, 40))
            x, y = (int(v) for v in rng.integers(0, self.size - side, 2))
            colour = row % 3
            # Noise: uniform images have channels without variance, where batch norm amplifies rounding errors.
            image = rng.integers(0, 256, (3, self.size, self.size), dtype=np.uint8)
            image[:, y : y + side, x : x + side] //= 4
            image[colour, y : y + side, x : x + side] = 230
            images[place] = torch.from_numpy(image)
            boxes[place, 0] = torch.tensor([x, y, x + side, y + side])
            if row == self.broken:
                boxes[place, 0, 2] = torch.nan
            labels[place, 0], valid[place, 0] = colour, True
        return MemoryBatch(images, Targets(boxes, labels, valid), rows)


LOSS = DetectionLoss(SimOta(), (BoxIou(), Objectness(), Classes()))
RECIPE = Recipe(
    model=TINY,
    loss=LOSS,
    augment=NoAugment(),
    optimizer=Sgd(),
    schedule=WarmCosine(warmup_epochs=1, flat_epochs=1),
    epochs=4,
    batch_size=8,
    closing=Closing(epochs=1, loss=LOSS.with_terms(RawL1())),
)


def detector_of(recipe: Recipe) -> Detector:
    torch.manual_seed(recipe.seed)
    return build(recipe.model, classes=("red", "green", "blue"))


def train_state_of(recipe: Recipe = RECIPE, process_group: ProcessGroup = ALONE, **runtime: Any) -> TrainState:
    return TrainState(recipe, detector_of(recipe), process_group, RuntimeOptions(**runtime))


def changed(**fields: Any) -> Recipe:
    return replace(RECIPE, **fields)
