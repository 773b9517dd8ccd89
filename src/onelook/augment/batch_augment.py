"""Augmentations of finished images, after the recipe's own: the interface, a random choice of several, a sequence.

CutMix, MixUp and mosaic of finished images take further images of the data set that went through the same first
augmentation, as augmentations of a whole batch do. They are in `cutmix.py`, `mixup.py` and `mosaic.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


class BatchAugment(Protocol):
    """Makes one image of the same size from a finished image; `sampler(rng)` returns further finished images."""

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample: ...


@dataclass(frozen=True, eq=False)
class AugmentedSampler:
    """An `ImageSampler` whose images went through an augmentation."""

    augment: BatchAugment
    sampler: ImageSampler

    @property
    def size(self) -> tuple[int, int]:
        return self.sampler.size

    @property
    def progress(self) -> float:
        return self.sampler.progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        """Another augmented image."""
        return self.augment(self.sampler(rng), self.sampler, rng)

    def balanced(self, rng: np.random.Generator) -> tuple[int, Sample]:
        """A random class, and an augmented image of one that shows it."""
        label, sample = self.sampler.balanced(rng)
        return label, self.augment(sample, self.sampler, rng)


@dataclass(frozen=True)
class WithBatchAugments:
    """An augmentation, followed by a recipe's `batch_augments` in order."""

    augment: BatchAugment
    batch_augments: tuple[BatchAugment, ...]

    @property
    def uses_polygons(self) -> bool:
        """Whether the augmentation needs the objects' polygons; `batch_augments` never do."""
        return bool(getattr(self.augment, "uses_polygons", True))

    @property
    def needs_polygons(self) -> bool:
        """Whether a part of the augmentation does nothing where objects have no polygons."""
        return bool(getattr(self.augment, "needs_polygons", False))

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        result, finished = self.augment(sample, sampler, rng), AugmentedSampler(self.augment, sampler)
        for extra in self.batch_augments:
            result = extra(result, finished, rng)
        return result


@dataclass(frozen=True)
class OneOf:
    """Applies one of several augmentations, or none (Darknet: CutMix or mosaic, half of the time).

    All `choices` have equal chances.
    """

    choices: tuple[BatchAugment, ...]
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("there is nothing to choose from")

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        applies, number = rng.random() < self.probability, int(rng.integers(len(self.choices)))
        return self.choices[number](sample, sampler, rng) if applies else sample
