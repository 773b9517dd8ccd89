"""Augmentations that hide parts of an image: CutOut, random erasing, hide-and-seek, grid mask (YOLOv4 sec. 2.2).

Each is a `BatchAugment`: it is applied to a finished image. Objects keep their boxes, as in the papers, even where
little of them remains visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class CutOut:
    """Hides one square around a random point (DeVries & Taylor 2017), clipped to the image.

    side: of the square, as a part of the image's shorter side.  fill: grey value; the paper's is the mean.
    """

    probability: float = 0.5
    side: float = 0.5
    fill: int = 114

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[:2]
        applies, x, y = rng.random() < self.probability, rng.integers(width), rng.integers(height)
        half = self.side * min(height, width) / 2
        x1, y1, x2, y2 = (int(max(edge, 0)) for edge in (x - half, y - half, x + half, y + half))
        return fill_rectangle(sample, (x1, y1, x2, y2), self.fill) if applies else sample


@dataclass(frozen=True)
class RandomErase:
    """Fills one rectangle with noise (Zhong et al. 2020, algorithm 1).

    area: (smallest, largest) part of the image.  aspect: the largest ratio of the sides, either way.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: float = 3.33

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        height, width = sample.image.shape[:2]
        for _ in range(100):  # most rectangles fit; one that does not is sampled again
            area = rng.uniform(*self.area) * height * width
            aspect = rng.uniform(1 / self.aspect, self.aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
                return fill_rectangle(sample, (x, y, x + w, y + h), rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        return sample


@dataclass(frozen=True)
class HideAndSeek:
    """Hides random cells of a grid (Singh & Lee 2017), under the image's mean colour.

    cells: sides of a cell in pixels, of which one is chosen at random.  part: probability of a cell to be hidden.
    """

    probability: float = 0.5
    cells: tuple[int, ...] = (16, 32, 44, 56)
    part: float = 0.5

    def __post_init__(self) -> None:
        if not self.cells or min(self.cells) < 1:
            raise ValueError(f"cells are sides of at least one pixel, not {self.cells}")

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        applies, cell = rng.random() < self.probability, int(rng.choice(self.cells))
        height, width = sample.image.shape[:2]
        grid = rng.random((-(-height // cell), -(-width // cell))) < self.part
        if not applies:
            return sample
        mask = grid.repeat(cell, 0).repeat(cell, 1)[:height, :width]
        mean = sample.image.mean((0, 1)).round().astype(np.uint8)
        return replace(sample, image=np.where(mask[..., None], mean, sample.image))


@dataclass(frozen=True)
class GridMask:
    """Hides squares in a regular grid of random pitch and offset (Chen et al. 2020).

    pitch: (smallest, largest) distance of the squares, as a part of the shorter side.  kept: the ratio r of a pitch
    that stays visible between two squares.
    """

    probability: float = 0.5
    pitch: tuple[float, float] = (0.4, 1.0)
    kept: float = 0.6
    fill: int = 114

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        applies = rng.random() < self.probability
        height, width = sample.image.shape[:2]
        pitch = max(2, int(rng.uniform(*self.pitch) * min(height, width)))
        y, x = rng.integers(0, pitch, 2)
        if not applies:
            return sample
        side = round(pitch * (1 - self.kept))
        rows, columns = ((np.arange(extent) + start) % pitch < side for extent, start in ((height, y), (width, x)))
        mask = rows[:, None] & columns
        return replace(sample, image=np.where(mask[..., None], np.uint8(self.fill), sample.image))


def fill_rectangle(sample: Sample, rectangle: tuple[int, int, int, int], content: int | np.ndarray) -> Sample:
    """The sample with other pixels in a rectangle (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = rectangle
    image = sample.image.copy()
    image[y1:y2, x1:x2] = content
    return replace(sample, image=image)
