"""Where augmentations get further random images: the interface, a list of samples, and the random generator."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from onelook.types import Sample


class ImageSampler(Protocol):
    """Returns further random images of the data set; also holds the input's size and the progress of the training.

    size: (height, width) of the training input.  progress: 0 to 1, the part of the training that is done.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def progress(self) -> float: ...

    def __call__(self, rng: np.random.Generator) -> Sample: ...


class ListSampler:
    """An `ImageSampler` over a list of samples: uniform, with replacement."""

    def __init__(self, samples: list[Sample] | tuple[Sample, ...], size: tuple[int, int], progress: float = 0.0):
        self.samples, self.size, self.progress = samples, size, progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        return self.samples[int(rng.integers(len(self.samples)))]


def sample_generator(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The random generator of one training sample: the same in every worker process and in any order.

    index: the image's number in the data set.  repeat: counts its occurrences in the epoch.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index, repeat))))
