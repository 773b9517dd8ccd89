"""How an image of any size comes into the network's input, and how boxes come back.

A frame is part of what weights expect, and travels with them: YOLOX pastes at the top-left corner, YOLOv7 in the
centre, DAMO-YOLO and YOLOv4 stretch. `frame(image, size)` gives the placed image and its `ResizeTransform`, whose `back` is
the exact algebraic inverse of `forward`.
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
    """Where an image lies in the frame: input = source * scale + offset, for x and y apart.

    scale_x, scale_y: input pixels a source pixel.  left, top: offset in input pixels.  source, size: (height, width)
    of the original image and of the frame.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    source: tuple[int, int]
    size: tuple[int, int]

    def forward(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) xyxy boxes of the original image in pixels of the frame."""
        return boxes * self._gain(boxes.dtype) + self._offset(boxes.dtype)

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) xyxy boxes of the frame in pixels of the original image; not clipped.

        Sides that are exponentials may be as large as their type goes: what is beyond it comes back infinite.
        """
        with np.errstate(over="ignore"):
            return (boxes - self._offset(boxes.dtype)) / self._gain(boxes.dtype)

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

    In float32, row by row and then column by column; whole numbers are rounded. OpenCV's own interpolation at given
    places knows 32 steps between two pixels only.
    """
    top, bottom, part = _aligned(image.shape[0], size[0])
    rows = _between(image[top], image[bottom], part[:, None, None])
    left, right, part = _aligned(image.shape[1], size[1])
    result = _between(rows[:, left], rows[:, right], part[:, None])
    return result if image.dtype.kind == "f" else np.rint(result).astype(image.dtype)


def _aligned(source: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every output pixel of a line: the source pixels before and behind it, and how far it is between them."""
    place = np.linspace(0, source - 1, size, dtype=np.float64)
    before = np.minimum(place.astype(np.int64), max(source - 2, 0))
    return before, np.minimum(before + 1, source - 1), (place - before).astype(np.float32)


def _between(first: np.ndarray, second: np.ndarray, part: np.ndarray) -> np.ndarray:
    start = first.astype(np.float32)
    step = second.astype(np.float32)
    step -= start
    step *= part
    step += start
    return step


@dataclass(frozen=True)
class Letterbox:
    """Keeps the aspect ratio; the rest of the frame is filled.

    fill: grey value of the padding.  anchor: where the image lies: "corner" is top left (YOLOX), "centre" YOLOv7 and
    Darknet.  enlarge: whether images smaller than the frame grow.  rounding: of the resized sides: "truncate" (YOLOX)
    or "round" (YOLOv7, half to even).  One ratio holds for both sides, so a resized side may be a fraction of a pixel
    shorter than ratio * side; but "whole" (Darknet) truncates and gives each side the ratio that it then has.
    longest: what the longer side of an image becomes where the frame has room for more; None fills the frame.  shrink:
    the interpolation where images get smaller, None for the same.
    """

    fill: int = 114
    anchor: Literal["corner", "centre"] = "corner"
    enlarge: bool = True
    rounding: Literal["truncate", "round", "whole"] = "truncate"
    interpolation: Interpolation = "linear"
    longest: int | None = None
    shrink: Interpolation | None = None

    def place(self, source: tuple[int, int], size: tuple[int, int]) -> tuple[ResizeTransform, tuple[int, int]]:
        """The placement of an image of `source` (height, width) in a frame of `size`, and its resized sides."""
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
        """(H, W, 3) uint8 in a frame of `size` (height, width): the framed image, and where it lies."""
        placement, (height, width) = self.place(image.shape[:2], size)
        top, left = int(placement.top), int(placement.left)
        interpolation = (self.shrink if placement.scale_x < 1 else None) or self.interpolation
        if (height, width) == size:
            return resize_image(image, size, interpolation), placement
        canvas = np.full((*size, image.shape[2]), self.fill, image.dtype)
        inner = canvas[top : top + height, left : left + width]
        if interpolation in _OPENCV and image.shape[:2] != (height, width):
            # OpenCV writes into the canvas: no second copy of the pixels.
            cv2.resize(image, (width, height), dst=inner, interpolation=_OPENCV[interpolation])
        else:
            inner[:] = resize_image(image, (height, width), interpolation)
        return canvas, placement


def _whole_sides(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Sides of the largest image of the aspect of `source` in `size`, in whole numbers throughout."""
    if size[1] * source[0] < size[0] * source[1]:  # the width decides
        return max(1, source[0] * size[1] // source[1]), size[1]
    return size[0], max(1, source[1] * size[0] // source[0])


@dataclass(frozen=True)
class Stretch:
    """Fills the frame, each side by its own ratio (DAMO-YOLO, YOLOv4)."""

    interpolation: Interpolation = "linear"

    def place(self, source: tuple[int, int], size: tuple[int, int]) -> tuple[ResizeTransform, tuple[int, int]]:
        """The placement of an image of `source` (height, width) in a frame of `size`, and its resized sides."""
        return ResizeTransform(size[1] / source[1], size[0] / source[0], 0, 0, source, size), size

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ResizeTransform]:
        """(H, W, 3) uint8 stretched to `size` (height, width): the framed image, and where it lies."""
        return resize_image(image, size, self.interpolation), self.place(image.shape[:2], size)[0]


Resize = Letterbox | Stretch
