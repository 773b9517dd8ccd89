"""Resizing an image of any size to the network's input, by letterbox or stretch, and boxes back to the image.

Weights expect the kind of resizing that they were trained with, so it is stored with them: YOLOX puts the image into
the top-left corner, YOLOv7 into the centre, DAMO-YOLO and YOLOv4 stretch it. `Letterbox()(image, size)` returns the
resized image and its `ResizeTransform`, whose `to_original` is the exact algebraic inverse of `to_input`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

Interpolation = Literal["linear", "area", "cubic", "nearest", "linear_aligned"]
_OPENCV = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}


@dataclass(frozen=True)
class ResizeTransform:
    """The coordinate transform of a resized image: input = source * scale + offset, for x and y separately.

    scale_x, scale_y: input pixels per source pixel.  left, top: offset in input pixels.  source, size: (height, width)
    of the original image and of the input.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    source: tuple[int, int]
    size: tuple[int, int]

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) xyxy boxes of the original image, converted to pixels of the input."""
        return boxes * self._gain(boxes.dtype) + self._offset(boxes.dtype)

    def to_original(self, boxes: np.ndarray, *, clip: bool = False) -> np.ndarray:
        """(N, 4) xyxy boxes of the input, converted to pixels of the original image; `clip`: and clipped to it.

        Decoded sides are exponentials and may be as large as their type allows: what is larger becomes infinite.
        """
        with np.errstate(over="ignore"):
            original = (boxes - self._offset(boxes.dtype)) / self._gain(boxes.dtype)
        if not clip:
            return original
        height, width = self.source
        return original.clip(0, np.array([width, height, width, height], boxes.dtype))

    def _gain(self, dtype: np.dtype) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], dtype)

    def _offset(self, dtype: np.dtype) -> np.ndarray:
        return np.array([self.left, self.top, self.left, self.top], dtype)


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation = "linear") -> np.ndarray:
    """(H, W, 3) resized to `size` (height, width); the same array when it has that size already."""
    if image.shape[:2] == size:
        return image
    if interpolation == "linear_aligned":
        return _resize_aligned(image, size)
    return cv2.resize(image, (size[1], size[0]), interpolation=_OPENCV[interpolation])


def _resize_aligned(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with aligned corners, as Darknet does: output i reads source i * (source - 1) / (output - 1).

    In float32, row by row and then column by column; integer types are rounded. OpenCV's own interpolation at given
    positions has only 32 steps between two pixels.
    """
    top, bottom, part = _aligned_positions(image.shape[0], size[0])
    rows = _interpolate(image[top], image[bottom], part[:, None, None])
    left, right, part = _aligned_positions(image.shape[1], size[1])
    result = _interpolate(rows[:, left], rows[:, right], part[:, None])
    return result if image.dtype.kind == "f" else np.rint(result).astype(image.dtype)


def _aligned_positions(source: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output pixel of a line: the source pixels before and after it, and its place between them (0 to 1)."""
    place = np.linspace(0, source - 1, size, dtype=np.float64)
    before = np.minimum(place.astype(np.int64), max(source - 2, 0))
    return before, np.minimum(before + 1, source - 1), (place - before).astype(np.float32)


def _interpolate(first: np.ndarray, second: np.ndarray, part: np.ndarray) -> np.ndarray:
    start = first.astype(np.float32)
    step = second.astype(np.float32)
    step -= start
    step *= part
    step += start
    return step


@dataclass(frozen=True)
class Letterbox:
    """Resizes an image to the input and keeps its aspect ratio; the rest of the input is padded.

    fill: grey value of the padding.  anchor: where the image lies: "corner" is top left (YOLOX), "centre" YOLOv7 and
    Darknet.  enlarge: whether images smaller than the input are enlarged.  rounding: of the resized sides: "truncate"
    (YOLOX) or "round" (YOLOv7, half to even).  One ratio holds for both sides, so a resized side may be a fraction of a
    pixel shorter than ratio * side; but "whole" (Darknet) truncates and gives each side the ratio that it then has.
    longest: the longest side of the resized image, even where the input has room for more; None fills the input.
    shrink: the interpolation where images get smaller, None for `interpolation`.
    """

    fill: int = 114
    anchor: Literal["corner", "centre"] = "corner"
    enlarge: bool = True
    rounding: Literal["truncate", "round", "whole"] = "truncate"
    interpolation: Interpolation = "linear"
    longest: int | None = None
    shrink: Interpolation | None = None

    def get_transform(self, source: tuple[int, int], size: tuple[int, int]) -> tuple[ResizeTransform, tuple[int, int]]:
        """The transform of an image of `source` (height, width) to an input of `size`, and its resized sides."""
        ratio = min(size[0] / source[0], size[1] / source[1])
        if self.longest is not None:
            ratio = min(ratio, self.longest / max(source))
        if not self.enlarge:
            ratio = min(ratio, 1.0)
        if self.rounding == "whole" and self.enlarge:
            height, width = _whole_sides(source, size)
            top, left = ((size[0] - height) // 2, (size[1] - width) // 2) if self.anchor == "centre" else (0, 0)
            return ResizeTransform(width / source[1], height / source[0], left, top, source, size), (height, width)
        whole = round if self.rounding == "round" else int
        height, width = max(1, whole(source[0] * ratio)), max(1, whole(source[1] * ratio))
        top = left = 0
        if self.anchor == "centre":
            # An odd pixel of padding goes to the bottom and the right; 0.1 decides the half cases (official YOLOv7).
            top, left = round((size[0] - height) / 2 - 0.1), round((size[1] - width) / 2 - 0.1)
        return ResizeTransform(ratio, ratio, left, top, source, size), (height, width)

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ResizeTransform]:
        """(H, W, 3) uint8 letterboxed to `size` (height, width), and the transform."""
        transform, (height, width) = self.get_transform(image.shape[:2], size)
        top, left = int(transform.top), int(transform.left)
        interpolation = (self.shrink if transform.scale_x < 1 else None) or self.interpolation
        if (height, width) == size:
            return resize_image(image, size, interpolation), transform
        canvas = np.full((*size, image.shape[2]), self.fill, image.dtype)
        inner = canvas[top : top + height, left : left + width]
        if interpolation in _OPENCV and image.shape[:2] != (height, width):
            # OpenCV writes into the canvas: no second copy of the pixels.
            cv2.resize(image, (width, height), dst=inner, interpolation=_OPENCV[interpolation])
        else:
            inner[:] = resize_image(image, (height, width), interpolation)
        return canvas, transform


def _whole_sides(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the largest image with the aspect of `source` inside `size`, in integer arithmetic."""
    if size[1] * source[0] < size[0] * source[1]:  # the width decides
        return max(1, source[0] * size[1] // source[1]), size[1]
    return size[0], max(1, source[1] * size[0] // source[0])


@dataclass(frozen=True)
class Stretch:
    """Resizes each side of an image to the input by its own ratio (DAMO-YOLO, YOLOv4)."""

    interpolation: Interpolation = "linear"

    def get_transform(self, source: tuple[int, int], size: tuple[int, int]) -> tuple[ResizeTransform, tuple[int, int]]:
        """The transform of an image of `source` (height, width) to an input of `size`, and its resized sides."""
        return ResizeTransform(size[1] / source[1], size[0] / source[0], 0, 0, source, size), size

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ResizeTransform]:
        """(H, W, 3) uint8 stretched to `size` (height, width), and the transform."""
        return resize_image(image, size, self.interpolation), self.get_transform(image.shape[:2], size)[0]


Resize = Letterbox | Stretch


def is_bilinear(frame: Resize) -> bool:
    """Whether images are always resized by bilinear interpolation at pixel centres."""
    return frame.interpolation == "linear" and getattr(frame, "shrink", None) in (None, "linear")
