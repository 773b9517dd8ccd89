"""Where augmentations get their images: pixels that are read when they are needed, and only as fine as needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from onelook.types import Sample

Read = Callable[[int, int | None], np.ndarray]

MAX_LEVEL = 3  # JPEG files can be decoded at 1/2, 1/4 and 1/8


class _Whole:
    """A reader of an image that is in memory: whole at every level."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def __call__(self, level: int, rows: int | None) -> np.ndarray:
        return self.image


class LazySample(Sample):
    """A `Sample` whose image is read on demand: `image` reads it whole, `read_pixels(sample, level)` perhaps smaller.

    read: (level, rows) -> (H, W, 3) uint8 RGB, whose sides are those of `size` divided by 2 ** level, rounded up, or
    (where a file cannot be decoded smaller) `size` itself; below the first `rows` rows of the whole image, rows may be
    missing (None: they may not).  size: (height, width) of the whole image.
    """

    def __init__(
        self,
        image: np.ndarray | Read,
        boxes: np.ndarray,
        labels: np.ndarray,
        polygons: tuple[tuple[np.ndarray, ...], ...] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        read: Read
        if isinstance(image, np.ndarray):
            read, size = _Whole(image), (image.shape[0], image.shape[1])
        elif size is None:
            raise ValueError("an image that is read later needs its size")
        else:
            read = image
        # All at once: a frozen dataclass would set them one by one.
        self.__dict__.update(boxes=boxes, labels=labels, polygons=polygons, read=read, size=size)

    read: Read
    size: tuple[int, int]

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, read anew each time."""
        return self.read(0, None)


class ImageSampler(Protocol):
    """What an augmentation may ask of the training around it: the input's size, and further images of the set.

    size: (height, width) of the training input.  progress: 0 to 1, the part of the training that is done.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def progress(self) -> float: ...

    def __call__(self, rng: np.random.Generator) -> Sample: ...


class ListSampler:
    """A `ImageSampler` from a sequence of samples, uniformly with replacement."""

    def __init__(self, samples: list[Sample] | tuple[Sample, ...], size: tuple[int, int], progress: float = 0.0):
        self.samples, self.size, self.progress = samples, size, progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        return self.samples[int(rng.integers(len(self.samples)))]


def sample_generator(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The randomness of one training sample: the same whichever process makes it, and in whatever order.

    index: the image's number in the data set.  repeat: counts its occurrences in the epoch.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index, repeat))))


def image_size(sample: Sample) -> tuple[int, int]:
    """(height, width) of a sample's whole image, without reading it where that is possible."""
    if isinstance(sample, LazySample):
        return sample.size
    height, width = sample.image.shape[:2]
    return height, width


def decode_level(scale: float) -> int:
    """The coarsest decoding (1/2 ** level) that still has a pixel for every pixel of an image shrunk by `scale`."""
    level = 0
    while level < MAX_LEVEL and scale * 2 ** (level + 1) <= 1.0 + 1e-9:
        level += 1
    return level


def read_pixels(sample: Sample, level: int = 0, rows: int | None = None) -> tuple[np.ndarray, tuple[float, float]]:
    """A sample's pixels at about 1/2 ** level, and the exact scales (x, y) from the whole image to them.

    rows: how many of the whole image's rows, from the top, have to be there; None for all.
    """
    if not isinstance(sample, LazySample):
        return sample.image, (1.0, 1.0)
    image = sample.read(level, rows)
    (height, width), (whole_height, whole_width) = image.shape[:2], sample.size
    scale = _scale(width, whole_width)
    if rows is not None and height < int(whole_height * scale):  # rows were left out
        return image, (scale, scale)
    return image, (scale, _scale(height, whole_height))


def _scale(side: int, whole: int) -> float:
    """1 / 2 ** n where the last pixel stands for less than 2 ** n, as a JPEG decoder leaves it; else the ratio."""
    if side == whole:
        return 1.0
    step = 1 << max(0, round(math.log2(whole / side)))
    return 1.0 / step if side == -(-whole // step) else side / whole
