"""Geometry of annotated images: transformation matrices, and boxes and polygons under them.

Matrices are (3, 3) float64 on continuous pixel coordinates: pixel k spans k to k + 1, so a box that ends at the border
of a 640 pixel image ends at 640. Pixels are warped by the same matrix, shifted by half a pixel where OpenCV counts
pixel centres; boxes therefore fit the pixels exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Polygons = tuple[tuple[np.ndarray, ...], ...]


def translation_matrix(x: float, y: float) -> np.ndarray:
    """(3, 3) matrix that translates by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scale_matrix(x: float, y: float) -> np.ndarray:
    """(3, 3) matrix that scales by (x, y)."""
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def flip_matrix(width: float) -> np.ndarray:
    """(3, 3) matrix of a horizontal flip of an image of this width: x becomes width - x."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(V, 2) points under a matrix; float64."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(M, 4) axis-aligned hulls of the boxes' transformed corners; float64, not clipped."""
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    if b == 0 == c and a > 0 < d:  # no rotation, as for every image of a mosaic: each side by itself
        return boxes * np.array((a, d, a, d)) + np.array((x, y, x, y))
    # The lower end of a hull takes the lower end of each contribution: of the box's lower side where the number is
    # positive, of its upper side where it is negative. One product of matrices instead of a dozen small operations.
    rises = (max(a, 0.0), max(b, 0.0), max(c, 0.0), max(d, 0.0))
    falls = (a - rises[0], b - rises[1], c - rises[2], d - rises[3])
    ends = np.array(
        (
            (rises[0], rises[2], falls[0], falls[2]),
            (rises[1], rises[3], falls[1], falls[3]),
            (falls[0], falls[2], rises[0], rises[2]),
            (falls[1], falls[3], rises[1], rises[3]),
        )
    )
    return boxes @ ends + np.array((x, y, x, y))


def transform_polygons(polygons: Polygons | None, matrix: np.ndarray) -> Polygons | None:
    """Polygons under a matrix; float32, not clipped."""
    if polygons is None:
        return None
    return tuple(tuple(transform_points(ring, matrix).astype(np.float32) for ring in rings) for rings in polygons)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(M, 4) boxes clipped to an image of `size` (height, width); one that was outside becomes empty."""
    return np.minimum(np.maximum(boxes, 0.0), np.array((size[1], size[0], size[1], size[0]), np.float64))


def intersect_boxes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(M, 4) the intersection of each pair of boxes; without area where they do not overlap."""
    low = np.maximum(first[:, :2], second[:, :2])
    return np.concatenate((low, np.maximum(np.minimum(first[:, 2:], second[:, 2:]), low)), 1)


def polygon_boxes(polygons: Polygons, size: tuple[int, int]) -> np.ndarray:
    """(M, 4) boxes around the polygons inside an image of `size`; they stay tight under rotation (YOLOv7).

    An object without any part of a polygon inside gets an empty box at 0. The official code samples 1000 points of a
    polygon and takes those inside; the boxes here are the limit for more and more points.
    """
    boxes, limit = np.zeros((len(polygons), 4)), np.array((size[1], size[0]), np.float64)
    for box, rings in zip(boxes, polygons):
        if not rings:
            continue
        points = rings[0] if len(rings) == 1 else np.concatenate(rings)
        low, high = points.min(0), points.max(0)
        if (low < 0).any() or (high > limit).any():
            if (high < 0).any() or (low > limit).any():
                continue
            points = np.concatenate([_edges_inside(ring, limit) for ring in rings])
            if not len(points):
                continue
            low, high = points.min(0), points.max(0)
        box[:2], box[2:] = low, high
    return boxes


def _edges_inside(ring: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(V, 2) end points of the edges of a polygon, clipped to the rectangle from 0 to `limit` (x, y)."""
    start = ring.astype(np.float64)
    along = np.roll(start, -1, 0) - start
    # Where along an edge (0 to 1) it enters and leaves each of the two strips; parallel ones are inside or outside.
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = -start / along, (limit - start) / along
    parallel, inside = along == 0, (start >= 0) & (start <= limit)
    enters = np.where(parallel, np.where(inside, 0.0, 2.0), np.minimum(first, second)).max(1).clip(min=0.0)
    leaves = np.where(parallel, 1.0, np.maximum(first, second)).min(1).clip(max=1.0)
    crosses = enters <= leaves
    start, along = start[crosses], along[crosses]
    return np.concatenate((start + enters[crosses, None] * along, start + leaves[crosses, None] * along)).clip(
        0.0, limit
    )


@dataclass(frozen=True)
class BoxFilter:
    """Decides which objects are kept after a geometric change.

    side: both sides of the new box are longer than this, pixels.  area: the new area is more than this part of the old
    one (which is measured at the new scale).  aspect: the longer side is less than this many times the shorter.
    """

    side: float = 2.0
    area: float = 0.2
    aspect: float = 20.0

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """(M,) bool of (M, 4) boxes before (unclipped, at the new scale) and after (clipped)."""
        # Column by column: reducing rows of two takes several times as long.
        (old_width, old_height), (width, height) = before.T[2:] - before.T[:2], after.T[2:] - after.T[:2]
        part = width * height / (old_width * old_height + 1e-16)
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        return (shorter > self.side) & (part > self.area) & (longer / (shorter + 1e-16) < self.aspect)


@dataclass(frozen=True)
class RandomAffine:
    """Rotation, scale, shear and translation with random parameters, from a canvas to an output window.

    degrees: rotation is within plus or minus this.  scale: (smallest, largest) zoom.  shear: degrees, each axis.
    translate: shift within plus or minus this part of the output's side.  centred: the canvas rotates about its centre,
    which lands in the middle of the output (YOLOX's released weights, YOLOv7, DAMO-YOLO); otherwise about its top-left
    corner, with the window at the origin (YOLOX since October 2021: at scale 1 the output is the top-left quarter).
    """

    degrees: float = 10.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.1, 2.0)
    shear: float = 2.0
    centred: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is (smallest, largest) with 0 < smallest <= largest, not {self.scale}")

    def sample_parameters(
        self, rng: np.random.Generator, canvas: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, float]:
        """The (3, 3) matrix from a canvas to an output window (both height, width), and its scale."""
        angle = rng.uniform(-self.degrees, self.degrees)
        scale = rng.uniform(*self.scale)
        shear_x, shear_y = (math.tan(math.radians(rng.uniform(-self.shear, self.shear))) for _ in range(2))
        shift_x, shift_y = (rng.uniform(-self.translate, self.translate) * side for side in (size[1], size[0]))
        matrix = affine_matrix(angle, scale, shear_x, shear_y)
        if self.centred:
            middle = translation_matrix(size[1] / 2 + shift_x, size[0] / 2 + shift_y)
            return middle @ matrix @ translation_matrix(-canvas[1] / 2, -canvas[0] / 2), scale
        return translation_matrix(shift_x, shift_y) @ matrix, scale


def affine_matrix(angle: float, scale: float, shear_x: float, shear_y: float) -> np.ndarray:
    """(3, 3) matrix of a rotation in degrees and a scale about the origin, then a shear.

    y points down, so that a positive angle is anticlockwise.
    shear_x moves y by x, shear_y moves x by y (the published order of names), both as tangents.
    """
    cosine, sine = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    rotation = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return np.array([[1.0, shear_y, 0.0], [shear_x, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ rotation
