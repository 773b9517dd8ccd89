"""The objects of an image (boxes, labels, polygons), and what geometric changes do to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.augment.geometry import (
    BoxFilter,
    Polygons,
    clip_boxes,
    intersect_boxes,
    transform_boxes,
    transform_polygons,
)
from onelook.types import Sample


@dataclass(frozen=True, eq=False)
class Instances:
    """The annotated objects of one image.

    boxes: (M, 4) float64 xyxy.  labels: (M,) int64.  polygons: as in `Sample`, None where the data has none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    polygons: Polygons | None = None

    @staticmethod
    def from_sample(sample: Sample) -> Instances:
        """The objects of a sample."""
        return Instances(sample.boxes.astype(np.float64), sample.labels, sample.polygons)

    def to_sample(self, image: np.ndarray) -> Sample:
        """A sample of an image with these objects."""
        return Sample(image, self.boxes.astype(np.float32), self.labels, self.polygons)

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, rows: np.ndarray) -> Instances:
        """The objects of a mask or of row numbers."""
        polygons = self.polygons
        if polygons is not None:
            polygons = tuple(polygons[row] for row in np.arange(len(self))[rows].tolist())
        return Instances(self.boxes[rows], self.labels[rows], polygons)

    def transformed(self, matrix: np.ndarray) -> Instances:
        """The objects under a (3, 3) matrix; boxes become the axis-aligned hulls of their transformed corners."""
        return Instances(transform_boxes(self.boxes, matrix), self.labels, transform_polygons(self.polygons, matrix))

    def clipped(self, size: tuple[int, int]) -> Instances:
        """The objects with boxes clipped to an image of `size` (height, width); polygons are not clipped."""
        return Instances(clip_boxes(self.boxes, size), self.labels, self.polygons)

    def cropped(self, rectangle: np.ndarray, keep: BoxFilter) -> Instances:
        """The objects clipped to a rectangle (x1, y1, x2, y2) that pass the filter; polygons are not clipped."""
        boxes = intersect_boxes(self.boxes, rectangle[None])
        return Instances(boxes, self.labels, self.polygons).select(keep(self.boxes, boxes))

    def with_box_polygons(self) -> Instances:
        """The objects, of which those without polygons get their box as one."""
        known = self.polygons or ((),) * len(self)
        polygons = tuple(rings or (_corners(box),) for rings, box in zip(known, self.boxes))
        return Instances(self.boxes, self.labels, polygons)

    def shorter_sides(self) -> np.ndarray:
        """(M,) the shorter side of each box."""
        width, height = self.boxes.T[2:] - self.boxes.T[:2]
        return np.minimum(width, height)


def _corners(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box.tolist()
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)


def concatenate(parts: list[Instances]) -> Instances:
    """The objects of several images, in order. `polygons` is None only where it is None in every part."""
    polygons = None
    if any(part.polygons is not None for part in parts):
        polygons = tuple(rings for part in parts for rings in (part.polygons or ((),) * len(part)))
    boxes, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels"))
    return Instances(boxes, labels, polygons)
