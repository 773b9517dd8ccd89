"""The objects of a picture: boxes, labels and outlines that move, are dropped and are joined together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.augment.geometry import Polygons, clip_boxes, transform_boxes, transform_polygons


@dataclass(frozen=True, eq=False)
class Instances:
    """boxes: (M, 4) float64 xyxy.  labels: (M,) int64.  polygons: as in `Sample`, None where the data has none."""

    boxes: np.ndarray
    labels: np.ndarray
    polygons: Polygons | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def rows(self, rows: np.ndarray) -> Instances:
        """Some of them, by mask or indices."""
        polygons = self.polygons
        if polygons is not None:
            polygons = tuple(polygons[row] for row in np.arange(len(self))[rows].tolist())
        return Instances(self.boxes[rows], self.labels[rows], polygons)

    def moved(self, matrix: np.ndarray) -> Instances:
        """Under a matrix; boxes become hulls of their moved corners."""
        return Instances(transform_boxes(self.boxes, matrix), self.labels, transform_polygons(self.polygons, matrix))

    def clipped(self, size: tuple[int, int]) -> Instances:
        """With boxes cut at the border of an image of `size` (height, width); outlines may go beyond."""
        return Instances(clip_boxes(self.boxes, size), self.labels, self.polygons)

    def shorter_sides(self) -> np.ndarray:
        """(M,) the shorter side of each box."""
        width, height = self.boxes.T[2:] - self.boxes.T[:2]
        return np.minimum(width, height)


def concatenate(parts: list[Instances]) -> Instances:
    """The objects of several pictures, in order; without outlines only where no picture has any."""
    polygons = None
    if any(part.polygons is not None for part in parts):
        polygons = tuple(rings for part in parts for rings in (part.polygons or ((),) * len(part)))
    boxes, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels"))
    return Instances(boxes, labels, polygons)
