"""The images and objects of a data set for augmentations: read on demand, at the resolution needed, cached or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from onelook.augment.lazy_sample import LazySample
from onelook.data.image_cache import ImageCache
from onelook.data.images import decode_image
from onelook.data.order import classes_of_objects
from onelook.data.split import Dataset
from onelook.types import Sample


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The part of a data set that is trained on; each worker has a copy.

    rows: (I,) of the data set that are trained on.  labels: the classes that are trained on, None for all.  cache:
    decoded images that are shared, None for none.  whole: whether images are decoded in full even where a smaller one
    would do: one decoding then serves every use (see `Sampling.reuse`).
    """

    dataset: Dataset
    rows: Sequence[int] | np.ndarray
    labels: np.ndarray | None = None
    cache: ImageCache | None = None
    whole: bool = False

    def sample(self, row: int, outlines: bool = True) -> LazySample:
        """An image with the objects that are trained on (see `Dataset.sample`); its pixels are read when needed.

        outlines: whether to include the objects' outlines; otherwise `polygons` is None.
        """
        boxes, labels, polygons, size = self.dataset.training_objects(row, outlines)
        if self.labels is not None:
            kept = np.isin(labels, self.labels)
            boxes, labels = boxes[kept], labels[kept]
            if polygons is not None:
                polygons = tuple(outline for outline, keep in zip(polygons, kept.tolist()) if keep)
        return LazySample(partial(self.read, row), boxes, labels, polygons, size)

    def read(self, row: int, level: int, rows: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB of an image at about 1 / 2 ** level of its size; may be read-only.

        rows: how many rows of the whole image, from the top, are needed; the others may be missing.
        """
        level = 0 if self.whole else level
        if self.cache is not None and (found := self.cache.get(row, level)) is not None:
            return found
        if self.cache is None:
            return decode_image(self.dataset.image_file(row), level=level, rows=rows)
        image = decode_image(self.dataset.image_file(row), level=level)
        self.cache.put(row, level, image)
        return image

    @cached_property
    def rows_by_class(self) -> list[tuple[int, np.ndarray]]:
        """The classes that are trained on and have objects, each with the rows of the images that show it."""
        images, labels = classes_of_objects(self.dataset)
        used = np.isin(images, np.asarray(self.rows))
        if self.labels is not None:
            used &= np.isin(labels, self.labels)
        return [(label, np.unique(images[used & (labels == label)])) for label in np.unique(labels[used]).tolist()]

    def make(self, build: Callable[[TrainingImages], Sample]) -> Sample:
        """A sample made by `build` from these images; made again if the cache has overwritten one of them meanwhile."""
        for _ in range(3):
            sample = build(self)
            if self.cache is None or self.cache.all_unchanged():
                return sample
        return build(replace(self, cache=None))


@dataclass(frozen=True, eq=False)
class DrawImages:
    """An `ImageSampler` (see `onelook.augment.sampler`) of random images, uniformly with replacement.

    rows: of the data set, from which is drawn; None for all that are trained on.
    """

    images: TrainingImages
    size: tuple[int, int]
    progress: float = 0.0
    rows: Sequence[int] | np.ndarray | None = None
    outlines: bool = True

    def __call__(self, rng: np.random.Generator) -> Sample:
        """Another random image."""
        rows = self.images.rows if self.rows is None else self.rows
        return self.images.sample(int(rows[int(rng.integers(len(rows)))]), self.outlines)

    def balanced(self, rng: np.random.Generator) -> tuple[int, Sample]:
        """A random class and an image that shows it, of all that are trained on; -1 and any image without classes."""
        classes = self.images.rows_by_class
        if not classes:
            return -1, self(rng)
        label, rows = classes[int(rng.integers(len(classes)))]
        return label, self.images.sample(int(rows[int(rng.integers(len(rows)))]), self.outlines)


def uses_polygons(augment: Any) -> bool:
    """Whether an augmentation uses the objects' outlines; without a field of this name it gets them."""
    return bool(getattr(augment, "uses_polygons", True))
