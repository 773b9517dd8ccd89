"""Augmentations outside of a training, for benchmarks and tests: further images from a list, and random generators.

In a training, `data.training_images.DrawImages` gives the images, and `data.loader` makes the generators, from other
numbers: what is made here is not what a training with the same seed sees.
"""

from __future__ import annotations

import numpy as np

from onelook.types import Sample


class ListSampler:
    """An `augment.sampler.ImageSampler` over a list of samples: uniform, with replacement."""

    def __init__(self, samples: list[Sample] | tuple[Sample, ...], size: tuple[int, int], progress: float = 0.0):
        self.samples, self.size, self.progress = samples, size, progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        return self.samples[int(rng.integers(len(self.samples)))]

    def balanced(self, rng: np.random.Generator) -> tuple[int, Sample]:
        """A random class, and a random sample that shows it."""
        labels = sorted({int(label) for sample in self.samples for label in sample.labels})
        label = labels[int(rng.integers(len(labels)))]
        showing = [sample for sample in self.samples if label in sample.labels]
        return label, showing[int(rng.integers(len(showing)))]


def sample_generator(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """A random generator for an augmentation, that depends on these numbers only."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index, repeat))))
