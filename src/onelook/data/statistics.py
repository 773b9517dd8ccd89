"""What a split holds in numbers: classes, sizes of images and objects, places, and which classes are seen together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onelook.data.index import CROWD, Index

SMALL, LARGE = 32.0, 96.0  # sides of the squares that part small, medium and large objects in COCO's evaluation
GRID = 16  # cells a side of the map of positions


@dataclass(frozen=True, eq=False)
class Statistics:
    """The objects of a split, crowds left out, and its images.

    names: (C,).  images, objects, empty_images: how many; empty ones have no object.  per_class: (C,) objects;
    images_per_class: (C,) images that show the class.  sizes: small, medium and large objects, by their box.
    image_sizes: (I, 2) height, width.  sides: (M,) square root of the box's area, in pixels.  relative_sides: the same
    as a part of the image's.  aspects: (M,) width by height of the boxes.  positions: (GRID, GRID) objects by where
    their centre is in the image, rows from the top.  together: (C, C) images that show both classes; the diagonal has
    `images_per_class`.
    """

    names: tuple[str, ...]
    images: int
    objects: int
    empty_images: int
    per_class: np.ndarray
    images_per_class: np.ndarray
    sizes: tuple[int, int, int]
    image_sizes: np.ndarray
    sides: np.ndarray
    relative_sides: np.ndarray
    aspects: np.ndarray
    positions: np.ndarray
    together: np.ndarray

    def summary(self) -> dict[str, Any]:
        """The numbers without the arrays, as plain data: what `onelook check --json` writes of a split."""
        small, medium, large = self.sizes
        return {
            "per_class": dict(zip(self.names, self.per_class.tolist())),
            "object_sizes": {"small": small, "medium": medium, "large": large},
            "images_without_objects": self.empty_images,
            "image_width": asdict(_spread(self.image_sizes[:, 1])),
            "image_height": asdict(_spread(self.image_sizes[:, 0])),
            "object_side": asdict(_spread(self.sides)),
        }


@dataclass(frozen=True)
class Spread:
    """Least, middle and largest of some numbers; None of none."""

    least: float | None
    median: float | None
    largest: float | None


def _spread(values: np.ndarray) -> Spread:
    if not len(values):
        return Spread(None, None, None)
    return Spread(*(round(float(value), 1) for value in np.quantile(values, (0, 0.5, 1))))


def statistics(index: Index, names: Sequence[str], labels: np.ndarray | None = None) -> Statistics:
    """The statistics of a split; boxes without area count as objects and have no aspect.

    labels: (M,) of its objects, where they are not those of the index.
    """
    count, objects_of = len(index), np.diff(index.object_offsets)
    counted = (index.object_flags & CROWD) == 0
    image_of = np.repeat(np.arange(count), objects_of)[counted]
    boxes, labels = index.boxes[counted], (index.labels if labels is None else labels)[counted].astype(np.int64)
    sides = np.sqrt(np.maximum(boxes[:, 2], 0) * np.maximum(boxes[:, 3], 0))
    heights, widths = (np.maximum(index.sizes[:, axis], 1).astype(np.float64) for axis in (0, 1))
    proper = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    shown = np.unique(np.stack([image_of, labels], 1), axis=0) if len(labels) else np.zeros((0, 2), np.int64)
    columns = (boxes[:, 0] + boxes[:, 2] / 2) / widths[image_of]
    rows = (boxes[:, 1] + boxes[:, 3] / 2) / heights[image_of]
    cells = [np.clip(np.nan_to_num(part) * GRID, 0, GRID - 1).astype(np.int64) for part in (rows, columns)]
    positions = np.zeros((GRID, GRID), np.int64)
    np.add.at(positions, (cells[0], cells[1]), 1)
    small, large = int((sides < SMALL).sum()), int((sides >= LARGE).sum())
    return Statistics(
        names=tuple(names),
        images=count,
        objects=len(labels),
        empty_images=int((np.bincount(image_of, minlength=count) == 0).sum()),
        per_class=np.bincount(labels, minlength=len(names)),
        images_per_class=np.bincount(shown[:, 1], minlength=len(names)),
        sizes=(small, len(sides) - small - large, large),
        image_sizes=index.sizes,
        sides=sides,
        relative_sides=sides / np.sqrt(widths * heights)[image_of],
        aspects=boxes[proper, 2] / boxes[proper, 3],
        positions=positions,
        together=_together(shown, count, len(names)),
    )


def _together(shown: np.ndarray, images: int, classes: int) -> np.ndarray:
    """(C, C) in how many images two classes are; shown: (P, 2) different pairs of image and class, by image."""
    together = np.zeros((classes, classes), np.int64)
    bounds = np.searchsorted(shown[:, 0], np.arange(images + 1))
    sizes = np.diff(bounds)
    for size in np.unique(sizes[sizes > 0]).tolist():  # images with as many classes each, at once
        rows = shown[bounds[:-1][sizes == size][:, None] + np.arange(size), 1]
        np.add.at(together, (np.repeat(rows, size, 1), np.tile(rows, (1, size))), 1)
    return together


def drift(first: np.ndarray, second: np.ndarray) -> float | None:
    """Total variation distance of two counts of the same classes: 0 for equal shares, 1 for no class in common."""
    if not np.sum(first) or not np.sum(second):
        return None
    return float(np.abs(first / np.sum(first) - second / np.sum(second)).sum() / 2)
