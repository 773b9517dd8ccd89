"""A second image of the data set, resized and placed at random: what MixUp blends in and copy-paste cuts from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.geometry import flip_matrix, scale_matrix, translation_matrix
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import decode_level, image_size, read_pixels
from onelook.augment.letterbox import Letterbox
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample

_TRIES = 100  # images sampled in search of one with objects


@dataclass(frozen=True, eq=False)
class MixImage:
    """A sample resized (and perhaps flipped) to whole pixels on a canvas of `size` (height, width).

    corner: (x, y) of the resized image's top left, perhaps outside.  resized: its (height, width).  letterbox: (x1, y1,
    x2, y2) of the grey letterbox around it; beyond it the canvas is black (as published).
    """

    sample: Sample
    size: tuple[int, int]
    corner: tuple[int, int]
    resized: tuple[int, int]
    letterbox: tuple[int, int, int, int]
    is_flipped: bool
    fill: int = 114

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) from pixels of the sample to pixels of the canvas."""
        height, width = image_size(self.sample)
        scale = scale_matrix(self.resized[1] / width, self.resized[0] / height)
        flipped = flip_matrix(self.resized[1]) @ scale if self.is_flipped else scale
        return translation_matrix(*self.corner) @ flipped

    def instances(self) -> Instances:
        """The sample's objects on the canvas; boxes are not clipped."""
        return Instances(self.sample.boxes, self.sample.labels, self.sample.polygons).transformed(self.matrix)

    def flipped(self) -> MixImage:
        """The same image on the horizontally flipped canvas."""
        width = self.size[1]
        x1, y1, x2, y2 = self.letterbox
        return replace(
            self,
            corner=(width - self.corner[0] - self.resized[1], self.corner[1]),
            letterbox=(width - x2, y1, width - x1, y2),
            is_flipped=not self.is_flipped,
        )

    def visible_rectangle(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) of the canvas that the image covers; empty where x1 >= x2 or y1 >= y2."""
        x, y = self.corner
        height, width = self.resized
        return max(x, 0), max(y, 0), min(x + width, self.size[1]), min(y + height, self.size[0])

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8: the canvas with this image only."""
        canvas = np.empty((*self.size, 3), np.uint8)
        x1, y1, x2, y2 = self.letterbox
        if x1 <= 0 and y1 <= 0 and y2 >= self.size[0] and x2 >= self.size[1]:
            canvas.fill(self.fill)
        else:
            canvas.fill(0)
            canvas[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = self.fill
        x1, y1, x2, y2 = self.visible_rectangle()
        if x1 < x2 and y1 < y2:
            self.visible_pixels(canvas[y1:y2, x1:x2])
        return canvas

    def visible_pixels(self, out: np.ndarray | None = None) -> np.ndarray:
        """The pixels inside `visible_rectangle`; written into `out` where it is given."""
        x1, y1, x2, y2 = (side - start for side, start in zip(self.visible_rectangle(), self.corner * 2))
        if self.is_flipped:
            x1, x2 = self.resized[1] - x2, self.resized[1] - x1
        pixels = self._resize(y2, x2)[y1:y2, x1:x2]
        if out is None:
            return cv2.flip(pixels, 1) if self.is_flipped else pixels
        if out.shape != pixels.shape:  # OpenCV would leave it as it is, and flip into an array of its own
            raise ValueError(f"pixels of the shape {pixels.shape} do not fit into {out.shape}")
        if self.is_flipped:
            return cv2.flip(pixels, 1, dst=out)
        out[:] = pixels
        return out

    def _resize(self, rows: int, columns: int) -> np.ndarray:
        """The resized image, not flipped; below and right of these rows and columns, pixels may be missing.

        What is cut off is neither decoded nor resized; the rest is the same, bit for bit.
        """
        (height, width), (source_height, source_width) = self.resized, image_size(self.sample)
        scale_y, scale_x = height / source_height, width / source_width
        level = decode_level(max(scale_y, scale_x))
        if level:
            image, _ = read_pixels(self.sample, level)
            return image if image.shape[:2] == self.resized else cv2.resize(image, (width, height))
        # Two more than end there: what bilinear interpolation reads.
        bottom = min(source_height, math.ceil(rows / scale_y) + 2)
        right = min(source_width, math.ceil(columns / scale_x) + 2)
        image, _ = read_pixels(self.sample, 0, bottom)
        if (source_height, source_width) == self.resized:
            return image
        return cv2.resize(image[:bottom, :right], None, fx=scale_x, fy=scale_y)


def sample_mix_image(
    frame: Letterbox, scale: tuple[float, float], sampler: ImageSampler, rng: np.random.Generator
) -> MixImage | None:
    """A random image with objects, letterboxed, resized by a random factor, flipped half the time, cropped at random.

    The image is letterboxed to the input's size and the letterbox resized by the factor; where it is then larger than
    the input, a random window of it is visible; where it is smaller, it lies at the top left. None where no image has
    objects.
    """
    factor = rng.uniform(*scale)
    is_flipped = bool(rng.random() < 0.5)
    sample = next((found for found in (sampler(rng) for _ in range(_TRIES)) if len(found.boxes)), None)
    if sample is None:
        return None
    size = sampler.size
    transform, inner = frame.get_transform(image_size(sample), size)
    height, width = (max(1, int(side * factor)) for side in size)
    top, left = (_sample_offset(outer, side, rng) for outer, side in zip((height, width), size))
    resized = (max(1, int(inner[0] * factor)), max(1, int(inner[1] * factor)))
    at_x, at_y = int(transform.left * factor), int(transform.top * factor)
    if is_flipped:
        at_x = width - resized[1] - at_x
    letterbox = (-left, -top, width - left, height - top)
    return MixImage(sample, size, (at_x - left, at_y - top), resized, letterbox, is_flipped, frame.fill)


def _sample_offset(outer: int, inner: int, rng: np.random.Generator) -> int:
    return int(rng.integers(0, outer - inner)) if outer > inner else 0
