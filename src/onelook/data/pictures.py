"""The images and objects of a data set as augmentations ask for them: read late, as finely as needed, cached or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from onelook.augment.lazy_sample import LazySample
from onelook.data.dataset import Dataset
from onelook.data.image_cache import ImageCache
from onelook.data.images import decode_image
from onelook.types import Sample


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a training may see of a data set; lives in each worker.

    rows: (I,) of the data set that are trained on.  labels: the classes that are learnt, None for all.  cache: decoded
    images that are shared, None for none.  whole: whether images are read whole even where they are shown small: one
    decoding then serves all (see `Sampling.reuse`).
    """

    dataset: Dataset
    rows: np.ndarray
    labels: np.ndarray | None = None
    cache: ImageCache | None = None
    whole: bool = False

    def sample(self, row: int, outlines: bool = True) -> LazySample:
        """An image of the data set with what is learnt of it (see `Dataset.sample`); pixels are read when needed.

        outlines: whether the objects' outlines are wanted; without, `polygons` is None.
        """
        boxes, labels, polygons, size = self.dataset.learnt(row, outlines)
        if self.labels is not None:
            kept = np.isin(labels, self.labels)
            boxes, labels = boxes[kept], labels[kept]
            if polygons is not None:
                polygons = tuple(outline for outline, keep in zip(polygons, kept.tolist()) if keep)
        return LazySample(partial(self.read, row), boxes, labels, polygons, size)

    def read(self, row: int, level: int, rows: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB of an image at about 1 / 2 ** level of its size; perhaps read-only.

        rows: those of the whole image, from the top, that are wanted; the others may be missing.
        """
        level = 0 if self.whole else level
        if self.cache is not None and (found := self.cache.get(row, level)) is not None:
            return found
        if self.cache is None:
            return decode_image(self.dataset.file(row), level=level, rows=rows)
        image = decode_image(self.dataset.file(row), level=level)
        self.cache.put(row, level, image)
        return image

    def make(self, recipe: Callable[[Pictures], Sample]) -> Sample:
        """A sample of these pictures; made again in the rare case that the cache dropped an image under its hands."""
        for _ in range(3):
            sample = recipe(self)
            if self.cache is None or self.cache.settle():
                return sample
        return recipe(replace(self, cache=None))


@dataclass(frozen=True, eq=False)
class DrawImages:
    """An `ImageSampler` (see `onelook.augment.sampler`) from rows of the data set, uniformly with replacement.

    rows: what is drawn from; the pictures' own when None.
    """

    pictures: Pictures
    size: tuple[int, int]
    progress: float = 0.0
    rows: Sequence[int] | np.ndarray | None = None
    outlines: bool = True

    def __call__(self, rng: np.random.Generator) -> Sample:
        """Another image."""
        rows = self.pictures.rows if self.rows is None else self.rows
        return self.pictures.sample(int(rows[int(rng.integers(len(rows)))]), self.outlines)


def uses_polygons(augment: Any) -> bool:
    """Whether an augmentation wants the objects' outlines; one that does not say gets them."""
    return bool(getattr(augment, "uses_polygons", True))
