"""Another image of the set at a random scale and place: what MixUp blends in and copy-paste cuts from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.letterbox import Letterbox
from onelook.augment.geometry import flip_matrix, translation_matrix, scale_matrix
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import ImageSampler, decode_level, read_pixels, image_size
from onelook.types import Sample

_TRIES = 100  # images drawn in search of one with objects


@dataclass(frozen=True, eq=False)
class MixImage:
    """A sample resized (and perhaps mirrored) into whole pixels of a picture of `size` (height, width).

    place: (x, y) of the resized image's corner, perhaps outside.  extent: its (height, width).  frame: (x1, y1, x2, y2)
    of the grey frame around it; beyond it the picture is black (as published).
    """

    sample: Sample
    size: tuple[int, int]
    place: tuple[int, int]
    extent: tuple[int, int]
    frame: tuple[int, int, int, int]
    mirrored: bool
    fill: int = 114

    @property
    def matrix(self) -> np.ndarray:
        """From pixels of the sample to pixels of the picture."""
        height, width = image_size(self.sample)
        scale = scale_matrix(self.extent[1] / width, self.extent[0] / height)
        turned = flip_matrix(self.extent[1]) @ scale if self.mirrored else scale
        return translation_matrix(*self.place) @ turned

    def objects(self) -> Instances:
        """Its objects in the picture; boxes are not clipped."""
        return Instances(self.sample.boxes, self.sample.labels, self.sample.polygons).moved(self.matrix)

    def flipped(self) -> MixImage:
        """The same in the horizontally flipped picture."""
        width = self.size[1]
        x1, y1, x2, y2 = self.frame
        return replace(
            self,
            place=(width - self.place[0] - self.extent[1], self.place[1]),
            frame=(width - x2, y1, width - x1, y2),
            mirrored=not self.mirrored,
        )

    def window(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) of the picture that its pixels cover; empty where x1 >= x2 or y1 >= y2."""
        x, y = self.place
        height, width = self.extent
        return max(x, 0), max(y, 0), min(x + width, self.size[1]), min(y + height, self.size[0])

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8: the picture without anything else in it."""
        picture = np.empty((*self.size, 3), np.uint8)
        x1, y1, x2, y2 = self.frame
        if x1 <= 0 and y1 <= 0 and y2 >= self.size[0] and x2 >= self.size[1]:
            picture.fill(self.fill)
        else:
            picture.fill(0)
            picture[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = self.fill
        x1, y1, x2, y2 = self.window()
        if x1 < x2 and y1 < y2:
            self.visible(picture[y1:y2, x1:x2])
        return picture

    def visible(self, out: np.ndarray | None = None) -> np.ndarray:
        """The pixels inside `window`; in `out`, where it is given."""
        x1, y1, x2, y2 = (side - start for side, start in zip(self.window(), self.place * 2))
        if self.mirrored:
            x1, x2 = self.extent[1] - x2, self.extent[1] - x1
        resized = self._resized(y2, x2)[y1:y2, x1:x2]
        if out is None:
            return cv2.flip(resized, 1) if self.mirrored else resized
        if out.shape != resized.shape:  # OpenCV would leave it as it is, and flip into an array of its own
            raise ValueError(f"pixels of the shape {resized.shape} do not fit into {out.shape}")
        if self.mirrored:
            return cv2.flip(resized, 1, dst=out)
        out[:] = resized
        return out

    def _resized(self, rows: int, columns: int) -> np.ndarray:
        """The resized image, not mirrored; below and right of these rows and columns, pixels may be missing.

        What is cut off is neither decoded nor resized; the rest is the same, bit for bit.
        """
        (height, width), (source_height, source_width) = self.extent, image_size(self.sample)
        scale_y, scale_x = height / source_height, width / source_width
        level = decode_level(max(scale_y, scale_x))
        if level:
            image, _ = read_pixels(self.sample, level)
            return image if image.shape[:2] == self.extent else cv2.resize(image, (width, height))
        # Two more than end there: what bilinear interpolation reads.
        bottom = min(source_height, math.ceil(rows / scale_y) + 2)
        right = min(source_width, math.ceil(columns / scale_x) + 2)
        image, _ = read_pixels(self.sample, 0, bottom)
        if (source_height, source_width) == self.extent:
            return image
        return cv2.resize(image[:bottom, :right], None, fx=scale_x, fy=scale_y)


def sample_mix_image(
    frame: Letterbox, scale: tuple[float, float], draw: ImageSampler, rng: np.random.Generator
) -> MixImage | None:
    """A random image with objects, framed, resized by a random factor, mirrored half the time, cut at random.

    The image is framed at the input's size, the frame resized by the factor; where it is then larger than the input, a
    random window of it is seen; where it is smaller, it lies at the top left. None where no image has objects.
    """
    factor = rng.uniform(*scale)
    mirrored = bool(rng.random() < 0.5)
    sample = next((found for found in (draw(rng) for _ in range(_TRIES)) if len(found.boxes)), None)
    if sample is None:
        return None
    size = draw.size
    placement, inner = frame.place(image_size(sample), size)
    height, width = (max(1, int(side * factor)) for side in size)
    top, left = (_offset(outer, side, rng) for outer, side in zip((height, width), size))
    extent = (max(1, int(inner[0] * factor)), max(1, int(inner[1] * factor)))
    at_x, at_y = int(placement.left * factor), int(placement.top * factor)
    if mirrored:
        at_x = width - extent[1] - at_x
    bounds = (-left, -top, width - left, height - top)
    return MixImage(sample, size, (at_x - left, at_y - top), extent, bounds, mirrored, frame.fill)


def _offset(outer: int, inner: int, rng: np.random.Generator) -> int:
    return int(rng.integers(0, outer - inner)) if outer > inner else 0
