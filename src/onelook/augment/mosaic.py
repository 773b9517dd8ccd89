"""Mosaics as plans on a canvas of twice the size: four images (YOLOv4 sec. 3.3) or nine (YOLOv7's code)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import to_rgb
from onelook.augment.letterbox import Resize, Letterbox, ResizeTransform
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import ImageSampler, image_size
from onelook.types import Sample


@dataclass(frozen=True)
class Mosaic:
    """Four images that meet at a random point, cut where they leave a canvas of twice the input's size.

    frame: how each image comes to the input's size (its alignment does not matter here).  spread: the meeting point is
    within these parts of the input's size, on both axes.  The image itself is top left; the others are drawn from the
    set with replacement.
    """

    frame: Resize = Letterbox()
    spread: tuple[float, float] = (0.5, 1.5)

    def draw(
        self, sample: Sample, draw: ImageSampler, rng: np.random.Generator
    ) -> tuple[tuple[Sample, ...], tuple[int, int]]:
        """The four samples and the meeting point (x, y), whole pixels."""
        y, x = (int(rng.uniform(self.spread[0] * side, self.spread[1] * side)) for side in draw.size)
        return (sample, *(draw(rng) for _ in range(3))), (x, y)

    def plan(self, samples: tuple[Sample, ...], meeting: tuple[int, int], size: tuple[int, int]) -> Collage:
        """The canvas of four samples (top left, top right, bottom left, bottom right); nothing is read.

        size: (height, width) of the input, half the canvas. Boxes are clipped to the canvas; none is dropped.
        """
        return join_tiles(self.tiles(samples, meeting, size), (2 * size[0], 2 * size[1]))

    def tiles(
        self, samples: tuple[Sample, ...], meeting: tuple[int, int], size: tuple[int, int]
    ) -> list[tuple[Layer | None, Instances]]:
        """The same, each image with its own objects, which are not clipped."""
        canvas = (2 * size[0], 2 * size[1])
        parts = []
        for number, sample in enumerate(samples):
            placement, (height, width) = self.frame.place(image_size(sample), size)
            left = meeting[0] - (width if number in (0, 2) else 0)
            top = meeting[1] - (height if number in (0, 1) else 0)
            parts.append(place_tile(sample, placement, (height, width), (left, top), canvas))
        return parts

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """The whole canvas as a picture, twice `draw.size`."""
        return render_sample(self.plan(*self.draw(sample, draw, rng), draw.size))


@dataclass(frozen=True)
class Mosaic9:
    """Nine images, the sample in the middle and the others around it, seen through a window of twice the input's size.

    frame: how each image comes to the input's size (its alignment does not matter here). The others are drawn from the
    set with replacement and laid clockwise from the top, each touching the one before; the window's place on a canvas
    of three times the input's size is random.
    """

    frame: Resize = Letterbox()

    def draw(
        self, sample: Sample, draw: ImageSampler, rng: np.random.Generator
    ) -> tuple[tuple[Sample, ...], tuple[int, int]]:
        """The nine samples and the window's corner (x, y), whole pixels."""
        y, x = (int(rng.uniform(0, side)) for side in draw.size)
        return (sample, *(draw(rng) for _ in range(8))), (x, y)

    def plan(self, samples: tuple[Sample, ...], corner: tuple[int, int], size: tuple[int, int]) -> Collage:
        """The window of nine samples; nothing is read. Boxes are clipped to it; none is dropped.

        size: (height, width) of the input, half the window.
        """
        window = (2 * size[0], 2 * size[1])
        placed = [self.frame.place(image_size(sample), size) for sample in samples]
        corners = _around(size, [sides for _, sides in placed])
        return join_tiles(
            [
                place_tile(sample, placement, sides, (left - corner[0], top - corner[1]), window)
                for sample, (placement, sides), (left, top) in zip(samples, placed, corners)
            ],
            window,
        )

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """The whole window as a picture, twice `draw.size`."""
        return render_sample(self.plan(*self.draw(sample, draw, rng), draw.size))


def _around(size: tuple[int, int], sides: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Corners (x, y) of nine images of `sides` (height, width): the first at `size`, the others clockwise around it."""
    y, x = size
    bottom, right = y + sides[0][0], x + sides[0][1]
    h, w = zip(*sides)
    return [
        (x, y),
        (x, y - h[1]),
        (x + w[1], y - h[2]),
        (right, y),
        (right, y + h[3]),
        (right - w[5], bottom),
        (right - w[5] - w[6], bottom),
        (x - w[7], bottom - h[7]),
        (x - w[8], bottom - h[7] - h[8]),
    ]


def place_tile(
    sample: Sample, placement: ResizeTransform, sides: tuple[int, int], corner: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Layer | None, Instances]:
    """A sample resized to `sides` (height, width) with its corner at (x, y) of a canvas, and its objects there.

    Objects are not clipped. None where nothing of it is on the canvas.
    """
    (height, width), (left, top) = sides, corner
    x, y = placement.scale_x, placement.scale_y
    matrix = np.array(((x, 0.0, left), (0.0, y, top), (0.0, 0.0, 1.0)))
    objects = Instances(sample.boxes, sample.labels, sample.polygons).moved(matrix)
    seen = (max(-left, 0), max(-top, 0), min(width, canvas[1] - left), min(height, canvas[0] - top))
    if seen[0] >= seen[2] or seen[1] >= seen[3]:
        return None, objects
    return Layer(sample, matrix, (seen[0] / x, seen[1] / y, seen[2] / x, seen[3] / y)), objects


def join_tiles(parts: list[tuple[Layer | None, Instances]], canvas: tuple[int, int]) -> Collage:
    """Tiles, from the back to the front, and all of their objects, clipped to the canvas."""
    layers = tuple(layer for layer, _ in parts if layer is not None)
    return Collage(canvas, layers, concatenate([objects for _, objects in parts]).clipped(canvas))


def render_sample(plan: Collage) -> Sample:
    """A plan as a sample."""
    found = plan.objects
    return Sample(to_rgb(plan.render()), found.boxes.astype(np.float32), found.labels, found.polygons)
