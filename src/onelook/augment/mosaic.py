"""Mosaic: one image made of four (YOLOv4 sec. 3.3) or nine (YOLOv7's code).

`Mosaic` and `Mosaic9` lay resized images on a canvas of twice the input's size (YOLOX, YOLOv7, DAMO-YOLO).
`BatchMosaic` puts four finished images into one of the same size; `DarknetAugment` (darknet.py) does this with random
crops. Both of these use `quarter`, Darknet's layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.augment.class_shares import mix_class_shares
from onelook.augment.collage import Collage, Layer
from onelook.augment.geometry import BoxFilter, translation_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import image_size
from onelook.augment.letterbox import Letterbox, Resize, ResizeTransform
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels


@dataclass(frozen=True)
class Mosaic:
    """Four images that meet at a random point, clipped to a canvas of twice the input's size.

    frame: how each image is resized to the input's size (its alignment does not matter here).  spread: the meeting
    point is within these parts of the input's size, on both axes.  The sample itself is top left; the others are random
    images of the set, with replacement.
    """

    frame: Resize = Letterbox()
    spread: tuple[float, float] = (0.5, 1.5)

    def sample_parameters(
        self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator
    ) -> tuple[tuple[Sample, ...], tuple[int, int]]:
        """The four samples and the meeting point (x, y), whole pixels."""
        y, x = (int(rng.uniform(self.spread[0] * side, self.spread[1] * side)) for side in sampler.size)
        return (sample, *(sampler(rng) for _ in range(3))), (x, y)

    def collage(self, samples: tuple[Sample, ...], meeting: tuple[int, int], size: tuple[int, int]) -> Collage:
        """The canvas of four samples (top left, top right, bottom left, bottom right); no pixel is read.

        size: (height, width) of the input, half the canvas. Boxes are clipped to the canvas; none is dropped.
        """
        return join_tiles(self.tiles(samples, meeting, size), (2 * size[0], 2 * size[1]))

    def tiles(
        self, samples: tuple[Sample, ...], meeting: tuple[int, int], size: tuple[int, int]
    ) -> list[tuple[Layer | None, Instances]]:
        """The four layers of the canvas, each with its own objects, which are not clipped."""
        canvas = (2 * size[0], 2 * size[1])
        parts = []
        for number, sample in enumerate(samples):
            transform, (height, width) = self.frame.get_transform(image_size(sample), size)
            left = meeting[0] - (width if number in (0, 2) else 0)
            top = meeting[1] - (height if number in (0, 1) else 0)
            parts.append(place_tile(sample, transform, (height, width), (left, top), canvas))
        return parts

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """The whole canvas, twice `sampler.size`."""
        return self.collage(*self.sample_parameters(sample, sampler, rng), sampler.size).to_sample()


@dataclass(frozen=True)
class Mosaic9:
    """Nine images, the sample in the middle, seen through a window of twice the input's size (YOLOv7's code).

    frame: how each image is resized to the input's size (its alignment does not matter here). The other eight are
    random images of the set, with replacement. They lie clockwise from the top, each touching the one before; the
    window has a random place on a canvas of three times the input's size.
    """

    frame: Resize = Letterbox()

    def sample_parameters(
        self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator
    ) -> tuple[tuple[Sample, ...], tuple[int, int]]:
        """The nine samples and the window's corner (x, y), whole pixels."""
        y, x = (int(rng.uniform(0, side)) for side in sampler.size)
        return (sample, *(sampler(rng) for _ in range(8))), (x, y)

    def collage(self, samples: tuple[Sample, ...], corner: tuple[int, int], size: tuple[int, int]) -> Collage:
        """The window of nine samples; no pixel is read. Boxes are clipped to it; none is dropped.

        size: (height, width) of the input, half the window.
        """
        window = (2 * size[0], 2 * size[1])
        resized = [self.frame.get_transform(image_size(sample), size) for sample in samples]
        corners = _corners_around(size, [sides for _, sides in resized])
        return join_tiles(
            [
                place_tile(sample, transform, sides, (left - corner[0], top - corner[1]), window)
                for sample, (transform, sides), (left, top) in zip(samples, resized, corners)
            ],
            window,
        )

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """The whole window, twice `sampler.size`."""
        return self.collage(*self.sample_parameters(sample, sampler, rng), sampler.size).to_sample()


@dataclass(frozen=True)
class BatchMosaic:
    """Parts of four finished images around a random point (YOLOv4 sec. 3.3, as Darknet does it for classifiers).

    spread: the point is within these parts of the sides.  keep: which objects survive the clipping. Each quarter shows
    the corner of its image that is next to the point. A class gets the share of its area. A `BatchAugment`.
    """

    probability: float = 0.5
    spread: tuple[float, float] = (0.2, 0.8)
    keep: BoxFilter = BoxFilter(side=2.0, area=0.2, aspect=20.0)

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        height, width = sample.image.shape[:2]
        y, x = (int(rng.uniform(*self.spread) * side) for side in (height, width))
        samples = [sample, *(sampler(rng) for _ in range(3))]
        image, parts, found = np.empty_like(sample.image), [], []
        for number, one in enumerate(samples):
            (dx, dy), (x1, y1, x2, y2) = quarter(number, (x, y), (height, width))
            image[y1:y2, x1:x2] = one.image[y1 - dy : y2 - dy, x1 - dx : x2 - dx]
            parts.append((one, (x2 - x1) * (y2 - y1) / (height * width)))
            if sample.shares is None:
                moved = Instances.from_sample(one).transformed(translation_matrix(dx, dy))
                found.append(moved.cropped(np.array((x1, y1, x2, y2), np.float64), self.keep))
        return concatenate(found).to_sample(image) if sample.shares is None else mix_class_shares(image, parts)


def quarter(
    number: int, point: tuple[int, int], size: tuple[int, int], padding: Rectangle = (0, 0, 0, 0)
) -> tuple[tuple[int, int], Rectangle]:
    """How far image `number` of a mosaic of Darknet moves (x, y), and the rectangle that it fills.

    number: 0 top left, 1 top right, 2 bottom left, 3 bottom right.  point: (x, y) where the four meet.  size: (height,
    width) of the mosaic and of each image.  padding: (left, top, right, bottom) pixels of the image without content.

    Each quarter shows the corner of its image that is next to the point, moved so that as little padding as possible
    is shown.
    """
    (x, y), (height, width), (left, top, right, bottom) = point, size, padding
    is_left, is_top = number in (0, 2), number in (0, 1)
    move_x = x - width + min(width - x, right) if is_left else x - min(x, left)
    move_y = y - height + min(height - y, bottom) if is_top else y - min(y, top)
    return (move_x, move_y), (
        0 if is_left else x,
        0 if is_top else y,
        x if is_left else width,
        y if is_top else height,
    )


def _corners_around(size: tuple[int, int], sides: list[tuple[int, int]]) -> list[tuple[int, int]]:
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
    sample: Sample, transform: ResizeTransform, sides: tuple[int, int], corner: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Layer | None, Instances]:
    """The layer of a sample resized to `sides` (height, width) with its corner at (x, y) of a canvas, and its objects.

    Objects are not clipped. The layer is None where nothing of the sample is on the canvas.
    """
    (height, width), (left, top) = sides, corner
    x, y = transform.scale_x, transform.scale_y
    matrix = np.array(((x, 0.0, left), (0.0, y, top), (0.0, 0.0, 1.0)))
    objects = Instances(sample.boxes, sample.labels, sample.polygons).transformed(matrix)
    visible = (max(-left, 0), max(-top, 0), min(width, canvas[1] - left), min(height, canvas[0] - top))
    if visible[0] >= visible[2] or visible[1] >= visible[3]:
        return None, objects
    return Layer(sample, matrix, (visible[0] / x, visible[1] / y, visible[2] / x, visible[3] / y)), objects


def join_tiles(parts: list[tuple[Layer | None, Instances]], canvas: tuple[int, int]) -> Collage:
    """A collage of layers, from the back to the front, with all of their objects, clipped to the canvas."""
    layers = tuple(layer for layer, _ in parts if layer is not None)
    return Collage(canvas, layers, concatenate([instances for _, instances in parts]).clipped(canvas))
