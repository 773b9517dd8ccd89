"""One image made of regions of several images: each source pixel is read once and warped once.

A `Collage` is a description: which region of which image goes where, and the objects. A transform multiplies its
matrices; no pixel is read before `render`, which reads only what is visible, at the resolution that is needed.
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
    """A colour change, pixel by pixel: (h, w, 3 or 4) uint8 -> (h, w, 3).

    The result goes into `out` (h, w, 3 or 4) where that is given, which saves a copy.
    """

    def __call__(self, image: np.ndarray, /, *, out: np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Layer:
    """A region (x1, y1, x2, y2 in pixels of the sample's whole image) and the (3, 3) matrix to the collage."""

    sample: Sample
    matrix: np.ndarray
    region: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Collage:
    """Layers on a grey background, and their objects.

    size: (height, width) of the image.  layers: from the back to the front.  instances: in pixels of the image.  fill:
    the grey of the background.
    """

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    instances: Instances
    fill: int = 114

    def transformed(self, matrix: np.ndarray, size: tuple[int, int]) -> Collage:
        """The collage under a (3, 3) matrix, cropped to `size`; boxes are axis-aligned hulls and not clipped."""
        layers = tuple(Layer(layer.sample, matrix @ layer.matrix, layer.region) for layer in self.layers)
        return Collage(size, layers, self.instances.transformed(matrix), self.fill)

    def render(self) -> np.ndarray:
        """(H, W, 4) uint8 RGB and an unused fourth channel: OpenCV warps four channels twice as fast as three."""
        return self._render(self.visible_regions(), None)

    def to_sample(self) -> Sample:
        """Renders the collage into a `Sample`."""
        return self.instances.to_sample(to_rgb(self.render()))

    def render_jittered(self, jitter: ColourJitter) -> np.ndarray:
        """(H, W, 3) uint8 RGB with a colour change.

        The change is applied to the source images where these have fewer pixels than the result. Interpolating changed
        colours, or changing interpolated ones, differs only by rounding and at saturated edges.
        """
        regions = self.visible_regions()
        left, top, right, bottom = _hull([region for _, region in regions])
        if sum([region.source_area for _, region in regions]) < (right - left) * (bottom - top):
            return to_rgb(self._render(regions, jitter))
        rendered = self._render(regions, None)
        if (bottom - top, right - left) == self.size:
            return jitter(rendered)
        # Outside all layers the image has one colour.
        image = _fill_around((left, top, right, bottom), self._background(jitter), self.size)
        if left < right:
            jitter(rendered[top:bottom, left:right], out=image[top:bottom, left:right])
        return image

    def _background(self, jitter: ColourJitter | None) -> tuple[int, ...]:
        """(red, green, blue) where there is no layer."""
        grey = (self.fill,) * 3
        return grey if jitter is None else tuple(jitter(np.array(grey, np.uint8)[None, None])[0, 0].tolist())

    def visible_regions(self) -> list[tuple[Layer, VisibleRegion]]:
        """The layers that cover part of the collage, in their order, each with that part."""
        return [(layer, region) for layer in self.layers if (region := visible_region(layer, self.size)) is not None]

    def _render(self, regions: list[tuple[Layer, VisibleRegion]], jitter: ColourJitter | None) -> np.ndarray:
        words = np.empty(self.size, np.uint32)
        # A colour and a full fourth channel are the four bytes of one integer: filling integers is faster.
        words.fill(int.from_bytes(bytes((*self._background(jitter), 255)), sys.byteorder))
        image = words.view(np.uint8).reshape(*self.size, 4)
        for layer, region in regions:
            warp_layer(image, layer, region, jitter)
        return image


def _fill_around(hull: tuple[int, int, int, int], colour: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) filled with one colour outside `hull` (left, top, right, bottom), uninitialised inside."""
    left, top, right, bottom = hull
    image = np.empty((*size, 3), np.uint8)
    # Whole lines of bytes are copied: NumPy takes ten times as long for pixels of three bytes.
    lines, line = image.reshape(size[0], -1), np.frombuffer(bytes(colour) * size[1], np.uint8)
    lines[:top], lines[bottom:] = line, line
    lines[top:bottom, : 3 * left], lines[top:bottom, 3 * right :] = line[: 3 * left], line[3 * right :]
    return image


@dataclass(frozen=True)
class VisibleRegion:
    """The part of a collage that a layer covers.

    left, top, right, bottom: whole pixels of the collage.  source: (x1, y1, x2, y2) of the layer's image that is
    visible there.  scale: pixels of the collage per pixel of the source, in the direction that is enlarged most.
    """

    left: int
    top: int
    right: int
    bottom: int
    source: tuple[float, float, float, float]
    scale: float

    @property
    def source_area(self) -> float:
        """Number of source pixels, at the resolution at which the source is read."""
        x1, y1, x2, y2 = self.source
        return (x2 - x1) * (y2 - y1) / 4.0 ** decode_level(self.scale)


def visible_region(layer: Layer, size: tuple[int, int]) -> VisibleRegion | None:
    """The part of a collage of `size` that a layer covers; None where it covers nothing."""
    (a, b, c), (d, e, f) = layer.matrix[:2].tolist()
    determinant = a * e - b * d
    if determinant == 0:
        return None
    height, width = size
    # The collage's corners in pixels of the source: the inverse matrix, each product once.
    near_x, far_x, near_y, far_y = -c, width - c, -f, height - f
    left_x, right_x, left_y, right_y = e * near_x, e * far_x, d * near_x, d * far_x
    top_x, bottom_x, top_y, bottom_y = b * near_y, b * far_y, a * near_y, a * far_y
    corners = [
        ((left_x - top_x) / determinant, (top_y - left_y) / determinant),
        ((right_x - top_x) / determinant, (top_y - right_y) / determinant),
        ((right_x - bottom_x) / determinant, (bottom_y - right_y) / determinant),
        ((left_x - bottom_x) / determinant, (bottom_y - left_y) / determinant),
    ]
    common = _clip_polygon(corners, layer.region)
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


def _clip_polygon(
    corners: list[tuple[float, float]], region: tuple[float, float, float, float]
) -> list[tuple[float, float]]:
    """The corners of a convex polygon clipped to a rectangle (x1, y1, x2, y2), side by side; perhaps none."""
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


def source_pixels(
    layer: Layer, visible: VisibleRegion
) -> tuple[np.ndarray, tuple[int, int, int, int], tuple[float, float]] | None:
    """What a layer's visible part is interpolated from: the decoded image, the rectangle (left, top, right, bottom) of
    it, and the scales (x, y) from the whole image to it; None where the rectangle is empty."""
    level = decode_level(visible.scale)
    rows = math.ceil(visible.source[3]) + (3 << level)
    image, (scale_x, scale_y) = read_pixels(layer.sample, level, rows)
    x1, y1, x2, y2 = layer.region
    # Two more pixels on each side: what bilinear interpolation reads. The region ends at whole pixels.
    left = max(round(x1 * scale_x), math.floor(visible.source[0] * scale_x) - 2, 0)
    top = max(round(y1 * scale_y), math.floor(visible.source[1] * scale_y) - 2, 0)
    right = min(round(x2 * scale_x), math.ceil(visible.source[2] * scale_x) + 2, image.shape[1])
    bottom = min(round(y2 * scale_y), math.ceil(visible.source[3] * scale_y) + 2, image.shape[0])
    return None if left >= right or top >= bottom else (image, (left, top, right, bottom), (scale_x, scale_y))


_AT_ONCE = 32  # pixels that OpenCV converts in one step


def warp_layer(canvas: np.ndarray, layer: Layer, visible: VisibleRegion, jitter: ColourJitter | None = None) -> None:
    """Warps the visible part of a layer into the (H, W, 4) `canvas`, with bilinear interpolation.

    The border pixels of the region are repeated once, so that neighbouring layers leave no gap: a layer may cover one
    of its own pixels more than its region.
    """
    found = source_pixels(layer, visible)
    if found is None:
        return
    image, (left, top, right, bottom), (scale_x, scale_y) = found
    # Some more columns where the image has them: OpenCV converts 32 pixels in one step, the rest of a row one by one.
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
            (a / scale_x, b / scale_y, a * at_x + b * at_y + c - visible.left - 0.5),
            (d / scale_x, e / scale_y, d * at_x + e * at_y + f - visible.top - 0.5),
        )
    )
    target = canvas[visible.top : visible.bottom, visible.left : visible.right]
    size = (visible.right - visible.left, visible.bottom - visible.top)
    cv2.warpAffine(padded, matrix, size, dst=target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)


def _hull(regions: list[VisibleRegion]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around all regions; all zero where there is none."""
    if not regions:
        return 0, 0, 0, 0
    left, top = min([region.left for region in regions]), min([region.top for region in regions])
    return left, top, max([region.right for region in regions]), max([region.bottom for region in regions])
