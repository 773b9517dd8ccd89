"""Mosaic (YOLOv4 sec. 3.3): four images around a random point, as a plan on a canvas of twice the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import opaque
from onelook.augment.frame import Frame, Letterbox
from onelook.augment.geometry import shift, stretch
from onelook.augment.objects import Objects, join
from onelook.augment.source import Draw, size_of
from onelook.types import Sample


@dataclass(frozen=True)
class Mosaic:
    """Four images that meet at a random point, cut where they leave a canvas of twice the input's size.

    frame: how each image comes to the input's size (its alignment does not matter here).  spread: the meeting point is
    within these parts of the input's size, on both axes.  The image itself is top left; the others are drawn from the
    set with replacement.
    """

    frame: Frame = Letterbox()
    spread: tuple[float, float] = (0.5, 1.5)

    def draw(self, sample: Sample, draw: Draw, rng: np.random.Generator) -> tuple[tuple[Sample, ...], tuple[int, int]]:
        """The four samples and the meeting point (x, y), whole pixels."""
        y, x = (int(rng.uniform(self.spread[0] * side, self.spread[1] * side)) for side in draw.size)
        return (sample, *(draw(rng) for _ in range(3))), (x, y)

    def plan(self, samples: tuple[Sample, ...], meeting: tuple[int, int], size: tuple[int, int]) -> Collage:
        """The canvas of four samples (top left, top right, bottom left, bottom right); nothing is read.

        size: (height, width) of the input, half the canvas. Boxes are clipped to the canvas; none is dropped.
        """
        canvas = (2 * size[0], 2 * size[1])
        layers, objects = [], []
        for tile, sample in enumerate(samples):
            placement, (height, width) = self.frame.place(size_of(sample), size)
            left = meeting[0] - (width if tile in (0, 2) else 0)
            top = meeting[1] - (height if tile in (0, 1) else 0)
            matrix = shift(left, top) @ stretch(placement.scale_x, placement.scale_y)
            seen = (max(-left, 0), max(-top, 0), min(width, canvas[1] - left), min(height, canvas[0] - top))
            gain = (placement.scale_x, placement.scale_y) * 2
            region = tuple(side / scale for side, scale in zip(seen, gain))
            layers.append(Layer(sample, matrix, cast(tuple[float, float, float, float], region)))
            own = Objects(sample.boxes, sample.labels, sample.polygons)
            objects.append(own.moved(matrix).clipped(canvas))
        return Collage(canvas, tuple(layers), join(objects))

    def __call__(self, sample: Sample, draw: Draw, rng: np.random.Generator) -> Sample:
        """The whole canvas as a picture, twice `draw.size`."""
        plan = self.plan(*self.draw(sample, draw, rng), draw.size)
        found = plan.objects
        return Sample(opaque(plan.render()), found.boxes.astype(np.float32), found.labels, found.polygons)
