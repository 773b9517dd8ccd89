"""A sample whose image is read when it is needed, at reduced resolution where that is enough."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onelook.types import Sample

Read = Callable[[int, int | None], np.ndarray]

MAX_LEVEL = 3  # JPEG files can be decoded at 1/2, 1/4 and 1/8


class _ArrayReader:
    """A `Read` for an image in memory: returns the whole array at every level."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def __call__(self, level: int, rows: int | None) -> np.ndarray:
        return self.image


class LazySample(Sample):
    """A `Sample` that reads its image on demand: `image` at full size, `read_pixels(sample, level)` perhaps smaller.

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
            read, size = _ArrayReader(image), (image.shape[0], image.shape[1])
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
        """(H, W, 3) uint8 RGB, read again at each access."""
        return self.read(0, None)


def image_size(sample: Sample) -> tuple[int, int]:
    """(height, width) of a sample's whole image, without reading the image where that is possible."""
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

    rows: how many of the whole image's rows, from the top, must be there; None for all.
    """
    if not isinstance(sample, LazySample):
        return sample.image, (1.0, 1.0)
    image = sample.read(level, rows)
    (height, width), (whole_height, whole_width) = image.shape[:2], sample.size
    scale = _exact_scale(width, whole_width)
    if rows is not None and height < int(whole_height * scale):  # rows were left out
        return image, (scale, scale)
    return image, (scale, _exact_scale(height, whole_height))


def _exact_scale(side: int, whole: int) -> float:
    """1 / 2 ** n where the side is `whole` / 2 ** n rounded up, as JPEG decoders round; else the ratio of the sides."""
    if side == whole:
        return 1.0
    step = 1 << max(0, round(math.log2(whole / side)))
    return 1.0 / step if side == -(-whole // step) else side / whole
