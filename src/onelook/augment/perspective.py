"""Random perspective: the part of a geometric augmentation that is not affine (off in every published training)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import to_rgb
from onelook.augment.geometry import Polygons, translation_matrix
from onelook.augment.instances import Instances
from onelook.types import Sample

_NEAREST = 1e-3  # of the homogeneous coordinate: what lies at the horizon or behind it is not visible


@dataclass(frozen=True)
class Perspective:
    """Tilts the canvas about its centre by a random perspective matrix, before the affine matrix.

    strength: both perspective terms lie within plus or minus this, an inverse of pixels: at 0.001 a point 500 pixels
    beside the centre comes half as far away, or twice as near. Published code searches up to 0.001.

    Such an image is warped twice, once into the mosaic and once out of it.
    """

    strength: float = 0.0005

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 0.01:
            raise ValueError(f"strength lies between 0 and 0.01, not {self.strength}")

    def sample_parameters(self, rng: np.random.Generator, canvas: tuple[int, int]) -> np.ndarray:
        """(3, 3) matrix from a canvas of this size (height, width) to itself."""
        tilt = np.eye(3)
        tilt[2, :2] = rng.uniform(-self.strength, self.strength, 2)
        return (
            translation_matrix(canvas[1] / 2, canvas[0] / 2) @ tilt @ translation_matrix(-canvas[1] / 2, -canvas[0] / 2)
        )

    @staticmethod
    def transformed(canvas: Collage, matrix: np.ndarray, size: tuple[int, int]) -> Collage:
        """The canvas under a perspective matrix, cropped to `size`; the same as `Collage.transformed` does for affine
        matrices."""
        grey = (canvas.fill,) * 3
        centred = translation_matrix(-0.5, -0.5) @ matrix @ translation_matrix(0.5, 0.5)  # OpenCV counts pixel centres
        image = cv2.warpPerspective(to_rgb(canvas.render()), centred, (size[1], size[0]), borderValue=grey)
        none = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        layer = Layer(none, np.eye(3), (0.0, 0.0, float(size[1]), float(size[0])))
        return Collage(size, (layer,), project_instances(canvas.instances, matrix), canvas.fill)


def project_instances(instances: Instances, matrix: np.ndarray) -> Instances:
    """Objects under a perspective matrix: boxes are hulls of the transformed corners.

    An object that reaches behind the image's horizon has an empty box and no polygon.
    """
    x1, y1, x2, y2 = instances.boxes.T
    corners, before = project_points(np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).reshape(-1, 2), matrix)
    corners, in_front = corners.reshape(-1, 4, 2), np.all(before.reshape(-1, 4), axis=1)
    boxes = np.where(in_front[:, None], np.concatenate([corners.min(1), corners.max(1)], 1), 0.0)
    polygons: Polygons | None = None
    if instances.polygons is not None:
        polygons = tuple(
            tuple(project_points(ring, matrix)[0].astype(np.float32) for ring in rings) if visible else ()
            for rings, visible in zip(instances.polygons, in_front)
        )
    return Instances(boxes, instances.labels, polygons)


def project_points(points: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, 2) points under a perspective matrix, and whether each lies in front of the horizon; float64."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    depth = moved[:, 2]
    return moved[:, :2] / np.maximum(depth, _NEAREST)[:, None], depth > _NEAREST
