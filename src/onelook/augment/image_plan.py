"""An augmented image as a description that another device renders: source pixels, and where each output pixel reads.

`onelook.ops.warp` renders a whole batch of them in one pass. The pixels of the sources are those that the CPU would
warp, at the same resolution; the result differs from the CPU's by rounding, and in single pixels along seams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from onelook.augment.collage import Collage, source_pixels
from onelook.augment.colour import HsvMap
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import decode_level, image_size, read_pixels
from onelook.augment.mix_image import MixImage
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels
_ALL = (-math.inf, -math.inf, math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class PlanLayer:
    """One source image in the output: output pixel (x, y) shows the source at `matrix` @ (x, y, 1), interpolated.

    pixels: (h, w, 3) uint8 RGB.  matrix: (2, 3) from indices of output pixels to indices of source pixels (0 is the
    first pixel's centre); beyond the border, the border is repeated.  covered: (x1, y1, x2, y2) the half-open range of
    source indices that the layer shows.  rectangle: of the output, beyond which it shows nothing.
    """

    pixels: np.ndarray
    matrix: np.ndarray
    covered: tuple[float, float, float, float]
    rectangle: Rectangle

    def flipped(self, size: tuple[int, int], vertically: bool, horizontally: bool) -> PlanLayer:
        """The same layer in the flipped output image of `size` (height, width)."""
        matrix, (x1, y1, x2, y2), (height, width) = self.matrix, self.rectangle, size
        if horizontally:
            matrix = matrix @ np.array(((-1.0, 0.0, width - 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
            x1, x2 = width - x2, width - x1
        if vertically:
            matrix = matrix @ np.array(((1.0, 0.0, 0.0), (0.0, -1.0, height - 1.0), (0.0, 0.0, 1.0)))
            y1, y2 = height - y2, height - y1
        return replace(self, matrix=matrix, rectangle=(x1, y1, x2, y2))


@dataclass(frozen=True, eq=False)
class PlanCanvas:
    """Layers from the back to the front, on a background of one grey."""

    layers: tuple[PlanLayer, ...]
    fill: int

    def flipped(self, size: tuple[int, int], vertically: bool, horizontally: bool) -> PlanCanvas:
        """The same canvas, flipped."""
        return replace(self, layers=tuple(one.flipped(size, vertically, horizontally) for one in self.layers))


@dataclass(frozen=True, eq=False)
class PlannedSample:
    """A `Sample` whose image is described: one canvas, or `share` of it plus the rest of a second one, rounded down.

    size: (height, width).  colours: what happens to the result inside the rectangle `coloured`, None for nothing.
    boxes, labels: as in `Sample`.
    """

    size: tuple[int, int]
    first: PlanCanvas
    second: PlanCanvas | None
    share: float
    colours: HsvMap | None
    coloured: Rectangle
    boxes: np.ndarray
    labels: np.ndarray
    shares: None = None

    @staticmethod
    def of(
        size: tuple[int, int],
        instances: Instances,
        first: PlanCanvas,
        second: PlanCanvas | None = None,
        *,
        share: float = 0.5,
        colours: HsvMap | None = None,
        coloured: Rectangle | None = None,
    ) -> PlannedSample:
        """The sample of some objects and canvases."""
        boxes, everything = instances.boxes.astype(np.float32), (0, 0, size[1], size[0])
        return PlannedSample(size, first, second, share, colours, coloured or everything, boxes, instances.labels)

    def copied(self) -> PlannedSample:
        """The same with pixels of its own, where those of the sources are overwritten soon."""

        def copy(canvas: PlanCanvas) -> PlanCanvas:
            return replace(canvas, layers=tuple(replace(one, pixels=one.pixels.copy()) for one in canvas.layers))

        return replace(self, first=copy(self.first), second=None if self.second is None else copy(self.second))


class Planner(Protocol):
    """An augmentation that can describe its images.

    not_planned: names of those of its settings with which it cannot; () where it can.
    """

    @property
    def not_planned(self) -> tuple[str, ...]: ...

    def plan(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> PlannedSample:
        """The sample that a call with the same arguments renders: the same objects, the same random parameters."""
        ...


def plan_collage(collage: Collage) -> PlanCanvas:
    """The layers of a collage as `Collage.render` warps them."""
    layers = []
    for layer, visible in collage.visible_regions():
        found = source_pixels(layer, visible)
        if found is None:
            continue
        image, (left, top, right, bottom), (scale_x, scale_y) = found
        # Output pixel x has its centre at x + 0.5, and so has the source's pixel.
        inverse = np.linalg.inv(layer.matrix)
        scale = np.array(((scale_x, 0.0, -left - 0.5), (0.0, scale_y, -top - 0.5), (0.0, 0.0, 1.0)))
        centres = np.array(((1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0)))
        layers.append(
            PlanLayer(
                image[top:bottom, left:right],
                (scale @ inverse @ centres)[:2],
                # The border pixels are repeated once, as `warp_layer` does, so that neighbours leave no gap. OpenCV
                # blends the next pixel with what lies behind; here its nearer half belongs to the layer.
                (-1.5, -1.5, right - left + 0.5, bottom - top + 0.5),
                (visible.left, visible.top, visible.right, visible.bottom),
            )
        )
    return PlanCanvas(tuple(layers), collage.fill)


def plan_resized(
    sample: Sample, resized: tuple[int, int], corner: tuple[int, int], size: tuple[int, int], *, level: int = 0
) -> PlanLayer | None:
    """A sample's whole image resized to `resized` (height, width) with its corner at (x, y) of an output of `size`.

    level: of decoding.  None where nothing of it is inside the output.
    """
    (height, width), (left, top) = resized, corner
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, size[1]), min(top + height, size[0])
    if x1 >= x2 or y1 >= y2:
        return None
    whole_height = image_size(sample)[0]
    rows = min(whole_height, math.ceil((y2 - top) * whole_height / height) + 2)
    image, _ = read_pixels(sample, level, rows if level == 0 else None)  # at level 0 rows may be missing below
    source = image_size(sample) if level == 0 else image.shape[:2]
    scale_x, scale_y = source[1] / width, source[0] / height
    matrix = np.array(
        ((scale_x, 0.0, (0.5 - left) * scale_x - 0.5), (0.0, scale_y, (0.5 - top) * scale_y - 0.5)), np.float64
    )
    # What the visible part reads, with the pixels beside it.
    first_x, last_x = (math.floor(matrix[0, 0] * x + matrix[0, 2]) for x in (x1, x2 - 1))
    first_y, last_y = (math.floor(matrix[1, 1] * y + matrix[1, 2]) for y in (y1, y2 - 1))
    near_x, near_y = max(0, first_x), max(0, first_y)
    pixels = image[near_y : max(near_y + 1, last_y + 2), near_x : max(near_x + 1, last_x + 2)]
    matrix[:, 2] -= (near_x, near_y)
    return PlanLayer(pixels, matrix, _ALL, (x1, y1, x2, y2))


def plan_mix_image(mix_image: MixImage) -> PlanCanvas:
    """The canvas of a `MixImage` as its `render` makes it: black, the grey letterbox, the image."""
    (height, width), (x1, y1, x2, y2) = mix_image.size, mix_image.letterbox
    layers: list[PlanLayer] = []
    grey = np.full((1, 1, 3), mix_image.fill, np.uint8)
    rectangle = (max(x1, 0), max(y1, 0), min(max(x2, 0), width), min(max(y2, 0), height))
    if rectangle[0] < rectangle[2] and rectangle[1] < rectangle[3]:
        layers.append(PlanLayer(grey, np.zeros((2, 3)), _ALL, rectangle))
    source, upright = image_size(mix_image.sample), mix_image.flipped() if mix_image.is_flipped else mix_image
    level = decode_level(max(mix_image.resized[0] / source[0], mix_image.resized[1] / source[1]))
    image = plan_resized(mix_image.sample, mix_image.resized, upright.corner, mix_image.size, level=level)
    if image is not None:
        layers.append(image.flipped(mix_image.size, False, mix_image.is_flipped))
    return PlanCanvas(tuple(layers), 0)
