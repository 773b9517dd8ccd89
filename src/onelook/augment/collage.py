"""Pictures put together from parts of other pictures, each source pixel read once and warped once into its place.

A collage is a plan: which region of which image goes where, and the objects that come along. Moving it multiplies
matrices; nothing is read before `render`, and then only what is seen, as finely as it is seen.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from onelook.augment.colour import to_rgb
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import decode_level, read_pixels
from onelook.types import Sample


class ColourJitter(Protocol):
    """(h, w, 3 or 4) uint8 -> (h, w, 3), each pixel for itself; or into `out` (h, w, 3 or 4), which saves a copy."""

    def __call__(self, image: np.ndarray, /, *, out: np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Layer:
    """A region (x1, y1, x2, y2 in pixels of the sample's whole image) that goes where the matrix moves it."""

    sample: Sample
    matrix: np.ndarray
    region: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Collage:
    """Layers from the back to the front over a grey of `fill`, and their objects, in pixels of the picture.

    size: (height, width).
    """

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    objects: Instances
    fill: int = 114

    def moved(self, matrix: np.ndarray, size: tuple[int, int]) -> Collage:
        """The same picture under a matrix, seen through a window of `size`; boxes are hulls, not clipped."""
        layers = tuple(Layer(layer.sample, matrix @ layer.matrix, layer.region) for layer in self.layers)
        return Collage(size, layers, self.objects.moved(matrix), self.fill)

    def render(self) -> np.ndarray:
        """(H, W, 4) uint8 RGB and an unused fourth channel: OpenCV warps four channels twice as fast as three."""
        return self._painted(self._views(), None)

    def jittered(self, jitter: ColourJitter) -> np.ndarray:
        """(H, W, 3) uint8 RGB with a change of colour, pixel by pixel.

        It is made on the source where that has fewer pixels than what is seen of it; bilinear interpolation of changed
        colours or change of interpolated ones differ by rounding and at saturated edges only.
        """
        views = self._views()
        left, top, right, bottom = _hull([view for _, view in views])
        if sum([view.source_area for _, view in views]) < (right - left) * (bottom - top):
            return to_rgb(self._painted(views, jitter))
        painted = self._painted(views, None)
        if (bottom - top, right - left) == self.size:
            return jitter(painted)
        # Outside all views the picture is of one colour.
        picture = _around((left, top, right, bottom), self._background(jitter), self.size)
        if left < right:
            jitter(painted[top:bottom, left:right], out=picture[top:bottom, left:right])
        return picture

    def _background(self, jitter: ColourJitter | None) -> tuple[int, ...]:
        """Red, green and blue where there is no layer."""
        grey = (self.fill,) * 3
        return grey if jitter is None else tuple(jitter(np.array(grey, np.uint8)[None, None])[0, 0].tolist())

    def _views(self) -> list[tuple[Layer, VisibleRegion]]:
        return [(layer, view) for layer in self.layers if (view := visible_region(layer, self.size)) is not None]

    def _painted(self, views: list[tuple[Layer, VisibleRegion]], jitter: ColourJitter | None) -> np.ndarray:
        words = np.empty(self.size, np.uint32)
        # A colour and a full fourth channel as the four bytes of one number: filling words is quicker.
        words.fill(int.from_bytes(bytes((*self._background(jitter), 255)), sys.byteorder))
        picture = words.view(np.uint8).reshape(*self.size, 4)
        for layer, view in views:
            warp_layer(picture, layer, view, jitter)
        return picture


def _around(hull: tuple[int, int, int, int], colour: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) of one colour outside of `hull` (left, top, right, bottom), and not yet filled inside."""
    left, top, right, bottom = hull
    picture = np.empty((*size, 3), np.uint8)
    # Whole lines of bytes are copied: NumPy takes ten times as long for pixels of three bytes.
    lines, line = picture.reshape(size[0], -1), np.frombuffer(bytes(colour) * size[1], np.uint8)
    lines[:top], lines[bottom:] = line, line
    lines[top:bottom, : 3 * left], lines[top:bottom, 3 * right :] = line[: 3 * left], line[3 * right :]
    return picture


@dataclass(frozen=True)
class VisibleRegion:
    """Where a layer is seen.

    left, top, right, bottom: whole pixels of the picture.  source: (x1, y1, x2, y2) of the layer's image that comes
    there.  scale: pixels of the picture a pixel of the source, in the direction that is enlarged most.
    """

    left: int
    top: int
    right: int
    bottom: int
    source: tuple[float, float, float, float]
    scale: float

    @property
    def source_area(self) -> float:
        """Pixels of the source, as finely as it is read."""
        x1, y1, x2, y2 = self.source
        return (x2 - x1) * (y2 - y1) / 4.0 ** decode_level(self.scale)


def visible_region(layer: Layer, size: tuple[int, int]) -> VisibleRegion | None:
    """The part of a picture of `size` that a layer covers; None where it is out of sight."""
    (a, b, c), (d, e, f) = layer.matrix[:2].tolist()
    determinant = a * e - b * d
    if determinant == 0:
        return None
    height, width = size
    # The picture's corners in pixels of the source: the matrix backwards, each product once.
    near_x, far_x, near_y, far_y = -c, width - c, -f, height - f
    left_x, right_x, left_y, right_y = e * near_x, e * far_x, d * near_x, d * far_x
    top_x, bottom_x, top_y, bottom_y = b * near_y, b * far_y, a * near_y, a * far_y
    corners = [
        ((left_x - top_x) / determinant, (top_y - left_y) / determinant),
        ((right_x - top_x) / determinant, (top_y - right_y) / determinant),
        ((right_x - bottom_x) / determinant, (bottom_y - right_y) / determinant),
        ((left_x - bottom_x) / determinant, (bottom_y - left_y) / determinant),
    ]
    common = _cut(corners, layer.region)
    if not common:
        return None
    xs, ys = [x for x, _ in common], [y for _, y in common]
    source = min(xs), min(ys), max(xs), max(ys)
    xs, ys = [a * x + b * y + c for x, y in common], [d * x + e * y + f for x, y in common]
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    right, bottom = min(width, math.ceil(max(xs))), min(height, math.ceil(max(ys)))
    if source[0] >= source[2] or source[1] >= source[3] or left >= right or top >= bottom:
        return None
    # The larger singular value of the 2 x 2 part.
    half, rest = (a * a + b * b + d * d + e * e) / 2, determinant * determinant
    scale = math.sqrt(half + math.sqrt(max(0.0, half * half - rest)))
    return VisibleRegion(left, top, right, bottom, source, scale)


def _cut(corners: list[tuple[float, float]], region: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    """The corners of a convex polygon inside a rectangle (x1, y1, x2, y2), one side after another; perhaps none."""
    for axis, sign, limit in ((0, 1, region[0]), (1, 1, region[1]), (0, -1, region[2]), (1, -1, region[3])):
        # How far inside this side of the rectangle.
        depths = [sign * (corner[axis] - limit) for corner in corners]
        if min(depths) >= 0:
            continue
        if max(depths) < 0:
            return []
        kept: list[tuple[float, float]] = []
        before, first = corners[-1], depths[-1]
        for here, second in zip(corners, depths):
            if (first < 0) != (second < 0):
                part = first / (first - second)
                kept.append((before[0] + part * (here[0] - before[0]), before[1] + part * (here[1] - before[1])))
            if second >= 0:
                kept.append(here)
            before, first = here, second
        corners = kept
    return corners


_AT_ONCE = 32  # pixels


def warp_layer(picture: np.ndarray, layer: Layer, view: VisibleRegion, jitter: ColourJitter | None = None) -> None:
    """Warps the seen part of a layer into (H, W, 4) `picture`, bilinearly.

    The border pixels of the region are repeated once, so that neighbouring layers leave no gap: a layer may cover one
    of its own pixels more than its region.
    """
    level = decode_level(view.scale)
    rows = math.ceil(view.source[3]) + (3 << level)
    image, (scale_x, scale_y) = read_pixels(layer.sample, level, rows)
    x1, y1, x2, y2 = layer.region
    # Two more pixels on each side: what bilinear interpolation reads. The region ends at whole pixels.
    left = max(round(x1 * scale_x), math.floor(view.source[0] * scale_x) - 2, 0)
    top = max(round(y1 * scale_y), math.floor(view.source[1] * scale_y) - 2, 0)
    right = min(round(x2 * scale_x), math.ceil(view.source[2] * scale_x) + 2, image.shape[1])
    bottom = min(round(y2 * scale_y), math.ceil(view.source[3] * scale_y) + 2, image.shape[0])
    if left >= right or top >= bottom:
        return
    # Some columns more, where there are some: OpenCV takes 32 pixels at once, and the rest of a row one by one.
    wide = -(-(right - left) // _AT_ONCE) * _AT_ONCE
    first = max(0, min(left, image.shape[1] - wide))
    source = image[top:bottom, first : first + wide]
    words = np.empty((bottom - top + 2, source.shape[1] + 2), np.uint32)
    colours = words.view(np.uint8).reshape(*words.shape, 4)
    (to_rgb if jitter is None else jitter)(source, out=colours[1:-1, 1:-1])
    start, stop = left - first, right - first + 2
    words, padded = words[:, start:stop], colours[:, start:stop]
    words[0], words[-1] = words[1], words[-2]
    words[:, 0], words[:, -1] = words[:, 1], words[:, -2]

    # OpenCV counts pixel centres: pixel k of `padded` has its centre at (left - 1 + k + 0.5) / scale_x of the source.
    (a, b, c), (d, e, f) = layer.matrix[:2].tolist()
    at_x, at_y = (left - 0.5) / scale_x, (top - 0.5) / scale_y
    matrix = np.array(
        (
            (a / scale_x, b / scale_y, a * at_x + b * at_y + c - view.left - 0.5),
            (d / scale_x, e / scale_y, d * at_x + e * at_y + f - view.top - 0.5),
        )
    )
    target = picture[view.top : view.bottom, view.left : view.right]
    size = (view.right - view.left, view.bottom - view.top)
    cv2.warpAffine(padded, matrix, size, dst=target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)


def _hull(views: list[VisibleRegion]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around all views; all zero where there is none."""
    if not views:
        return 0, 0, 0, 0
    left, top = min([view.left for view in views]), min([view.top for view in views])
    return left, top, max([view.right for view in views]), max([view.bottom for view in views])
