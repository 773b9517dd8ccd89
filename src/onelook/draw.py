"""Draws detections on images, and writes image files atomically.

Each class has one colour. Labels stay inside the image and avoid each other, in images of any size.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from onelook.errors import UserError, reason_of
from onelook.files import write_bytes

MIN_SIDE = 256
"""`enlarge_small_image` makes the longer side of an image at least this: letters need about ten pixels."""

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_LONGEST_NAME = 32  # letters of a class name; the rest is cut
_SMALLEST_LETTERS = 10  # pixels
_LETTERS_OF_SIDE = 0.17  # of the side of a square of the box's area
_WEIGHT = 520  # of variable fonts: a little bolder than regular, for letters of ten pixels

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2


@lru_cache(maxsize=4096)
def class_colour(label: int) -> Colour:
    """The RGB colour of a class. Hues are a golden ratio apart, so that neighbouring labels differ clearly.

    Saturation and brightness change after every eight classes.
    """
    hue = (0.58 + label * 0.618_033_988_75) % 1.0
    saturation, value = ((0.80, 1.00), (0.55, 1.00), (0.90, 0.80), (0.65, 0.80))[label // 8 % 4]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def drawable_text(text: str) -> str:
    """The part of a name that can be drawn: printable letters, shortened; OpenCV 4 has ASCII fonts: without accents.

    Empty where OpenCV 4 can draw none of its letters.
    """
    text = _clean(text)
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 2] + ".."


def _clean(text: str) -> str:
    """The letters of a text that can be drawn."""
    text = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    if not hasattr(cv2, "FontFace") and not text.isascii():
        import unicodedata  # tables of a megabyte, for few names

        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip()
    return text


def enlarge_small_image(image: np.ndarray) -> tuple[np.ndarray, int]:
    """The image, enlarged by a whole factor if its longer side is below `MIN_SIDE`; and the factor."""
    factor = -(-MIN_SIDE // max(image.shape[:2]))
    if factor == 1:
        return image, 1
    return np.ascontiguousarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)), factor


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray | None,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    colour: Colour | None = None,
    text: bool = True,
    line_width: int | None = None,
) -> np.ndarray:
    """Draws boxes and labels on a copy of an image; where labels overlap, the best detections are on top.

    image: (H, W, 3) uint8 RGB.  boxes: (K, 4) xyxy pixels, best first.  scores: (K,), None to leave them out.
    labels: (K,) which choose the colours, unless `colour` is given.  names: K names, in any script: OpenCV 5 draws most
    of Unicode, OpenCV 4 ASCII only, and writes the class number for a name without any.  text: whether to write names.
    line_width: of the boxes, in pixels; None fits the image and the box.

    Lines and letters grow with the image. They are smaller on small objects, and letters where there are many boxes;
    letters have ten pixels or more. Text that is wider than the image is cut, and left out where not one letter fits
    (see `enlarge_small_image`). Boxes that are not finite are left out, others are clipped to the image.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    if not len(boxes) or not height or not width:
        return canvas
    values = [""] * len(boxes) if scores is None else [f" {score:.2f}" for score in scores.tolist()]
    largest_letters = _largest_letters(height, width, len(boxes))
    shown = []
    for box, value, label, name in zip(np.asarray(boxes, np.float64), values, labels.tolist(), names):
        if np.isfinite(box).all():
            corners = _corners(box, height, width)
            letters, width_of_lines = _fitting(corners, largest_letters, (height, width))
            written = (drawable_text(name) or f"class {label}") + value
            lines = width_of_lines if line_width is None else max(1, line_width)
            shown.append(_Shown(corners, written, colour or class_colour(label), letters, lines))
    # Large boxes first: a small one inside stays visible.
    for item in sorted(shown, key=lambda item: -_area(item.box)):
        x1, y1, x2, y2 = item.box
        cv2.rectangle(canvas, (x1, y1), (x2, y2), item.colour, item.line_width)
    if text:
        _draw_labels(canvas, shown)
    return canvas


@dataclass(frozen=True)
class _Shown:
    """A detection that is drawn, in whole pixels of the canvas."""

    box: Rectangle
    text: str
    colour: tuple[int, int, int]
    letters: int
    line_width: int


def _largest_letters(height: int, width: int, count: int) -> int:
    """The size of letters on large objects, in pixels, of `count` boxes in an image."""
    crowding = min(1.0, max(0.65, (24 / max(count, 1)) ** 0.5))
    return max(_SMALLEST_LETTERS, round(min(height, width, 0.75 * max(height, width)) * 0.030 * crowding))


def _fitting(box: Rectangle, largest: int, image: tuple[int, int]) -> tuple[int, int]:
    """The size of a box's letters and the width of its lines, in pixels.

    Letters are at least half as large as the largest: in a large photo, which is seen reduced, ten pixels are not read.
    """
    side = abs(_area(box)) ** 0.5  # corners may be given in any order
    least = max(_SMALLEST_LETTERS, round(largest / 2))
    letters = min(largest, max(least, round(side * _LETTERS_OF_SIDE)))
    lines = max(1, round(sum(image) / 2 * 0.0028))
    return letters, min(lines, max(1, round(side / 16), round(lines / 3)))


def _draw_labels(canvas: np.ndarray, shown: Sequence[_Shown]) -> None:
    """Draws the labels, lowest score first, so that the best are on top where they overlap."""
    height, width = canvas.shape[:2]
    placed: list[tuple[Rectangle, _Shown, str]] = []
    taken = np.zeros((len(shown), 4))
    for item in shown:
        font, pad = _font(item.letters), _padding(item.letters)
        text, text_width = font.fit(item.text, width - 2 * pad)
        if not text:
            continue
        size = (text_width + 2 * pad, font.ascent + font.descent + 2 * pad)
        if size[1] > height / 3:
            continue
        place = _place_label(item.box, size, (width, height), taken[: len(placed)], item.line_width)
        taken[len(placed)] = place
        placed.append((place, item, text))
    for (x1, y1, x2, y2), item, text in reversed(placed):
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), item.colour, -1)
        font, pad = _font(item.letters), _padding(item.letters)
        font.write(canvas, text, (x1 + pad, y1 + pad + font.ascent), _readable_on(item.colour))


def add_caption(image: np.ndarray, lines: Sequence[str], *, letters: int | None = None) -> np.ndarray:
    """The image with lines of text below it, black on white; long ones go on in the next line.

    image: (H, W, 3) uint8 RGB.  letters: their height in pixels; None fits the image.
    """
    height, width = image.shape[:2]
    font = _font(letters or max(12, round(min(height, width) * 0.028)))
    pad = 2 * _padding(font.letters)
    wrapped = [part for line in lines for part in _wrapped(_clean(line), font, width - 2 * pad)]
    if not wrapped:
        return image
    step = font.ascent + font.descent + _padding(font.letters)
    strip = np.full((step * len(wrapped) + 2 * pad, width, 3), 255, np.uint8)
    for number, text in enumerate(wrapped):
        font.write(strip, text, (pad, pad + number * step + font.ascent), (0, 0, 0))
    return np.concatenate([image, strip])


def _wrapped(text: str, font: _Font, width: int) -> list[str]:
    """A text as lines that fit a width; a word that is too long is cut."""
    lines: list[str] = []
    current = ""
    for word in text.split(" "):
        longer = f"{current} {word}".strip()
        if font.fit(longer, width)[0] == longer:
            current = longer
            continue
        lines += [current] if current else []
        current = font.fit(word, width)[0]
    return [*lines, current] if current else lines


def _padding(letters: int) -> int:
    """Pixels around the text of a label."""
    return max(1, letters // 5)


def _place_label(
    box: Rectangle, size: tuple[int, int], limits: tuple[int, int], taken: np.ndarray, thickness: int
) -> Rectangle:
    """The rectangle for a label of `size` (width, height): the first free place at its box, or the least covered."""
    x1, y1, x2, y2 = box
    half = thickness // 2
    left, right = x1 - half, x2 + half + 1 - size[0]
    above, below = y1 - half - size[1], y2 + half + 1
    choices = ((left, above), (left, y1 - half), (right, above), (left, below), (right, y1 - half), (right, below))
    best, least = None, float("inf")
    for order, (x, y) in enumerate(choices):
        inside_x = min(max(x, 0), max(limits[0] - size[0], 0))
        inside_y = min(max(y, 0), max(limits[1] - size[1], 0))
        place = (inside_x, inside_y, inside_x + size[0], inside_y + size[1])
        if order in (0, 2, 3, 5) and abs(inside_y - y) > 0:
            continue  # no room above or below: it would cover the box's own edge at an odd place
        covered = _overlap_area(place, taken) / (size[0] * size[1])
        if covered < least - 1e-9:
            best, least = place, covered
        if least == 0:
            break
    assert best is not None  # the second choice is never skipped
    return best


def _overlap_area(place: Rectangle, taken: np.ndarray) -> float:
    """The area of `place`, in pixels, that the rectangles `taken` cover; overlaps count twice."""
    if not len(taken):
        return 0.0
    w = np.minimum(taken[:, 2], place[2]) - np.maximum(taken[:, 0], place[0])
    h = np.minimum(taken[:, 3], place[3]) - np.maximum(taken[:, 1], place[1])
    return float((w.clip(0) * h.clip(0)).sum())


# --- letters ---------------------------------------------------------------------------------------------------------


class _Font(Protocol):
    letters: int
    ascent: int
    descent: int

    def fit(self, text: str, width: int) -> tuple[str, int]:
        """The text, cut to `width` pixels ("" if not one letter fits), and its width."""
        ...

    def write(self, canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int]) -> None: ...


class _BuiltInFont:
    """The TrueType fonts inside OpenCV 5."""

    def __init__(self, letters: int) -> None:
        self.letters, self.ascent, self.descent = letters, round(letters * 0.80), round(letters * 0.22)

    def _font(self, text: str) -> Any:
        return _font_face("sans" if text.isascii() else "uni")  # loading "uni", which has all letters, takes 60 ms

    def _width(self, text: str) -> int:
        x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), self._font(text), self.letters, _WEIGHT)
        return int(x + width)

    def fit(self, text: str, width: int) -> tuple[str, int]:
        return _fit(text, width, self._width)

    def write(self, canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int]) -> None:
        cv2.putText(canvas, text, origin, colour, self._font(text), self.letters, _WEIGHT)


class _StrokeFont:
    """The Hershey strokes of OpenCV 4: ASCII only."""

    def __init__(self, letters: int) -> None:
        self.letters, self.ascent, self.descent = letters, round(letters * 0.80), round(letters * 0.24)
        self._thickness = max(1, round(letters / 13))
        self._scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, round(letters * 0.72), self._thickness)

    def _width(self, text: str) -> int:
        return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self._scale, self._thickness)[0][0])

    def fit(self, text: str, width: int) -> tuple[str, int]:
        return _fit(text, width, self._width)

    def write(self, canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int]) -> None:
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, self._scale
        cv2.putText(canvas, text, origin, font, scale, colour, self._thickness, cv2.LINE_AA)


@lru_cache(maxsize=2)
def _font_face(name: str) -> Any:
    return cv2.FontFace(name)


@lru_cache(maxsize=64)
def _font(letters: int) -> _Font:
    return _BuiltInFont(letters) if hasattr(cv2, "FontFace") else _StrokeFont(letters)


def _fit(text: str, width: int, measure: Callable[[str], int]) -> tuple[str, int]:
    """The text cut to a width: first the score is removed, then the end of the name."""
    for shorter in (text, text.rpartition(" ")[0], *(text[:end] + ".." for end in range(len(text) - 6, 0, -1))):
        if shorter and (needed := measure(shorter)) <= width:
            return shorter, needed
    return "", 0


# --- colours and corners ---------------------------------------------------------------------------------------------


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has more contrast (relative luminance, WCAG)."""
    red, green, blue = ((part / 255) ** 2.2 for part in colour)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.19 else (255, 255, 255)


def _corners(box: np.ndarray, height: int, width: int) -> Rectangle:
    """A box in whole pixels, clipped to the image; boxes outside lie on its border."""
    x1, x2 = np.clip(np.round(box[[0, 2]]), 0, width - 1).astype(int).tolist()
    y1, y2 = np.clip(np.round(box[[1, 3]]), 0, height - 1).astype(int).tolist()
    return x1, y1, x2, y2


def _area(box: Rectangle) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


# --- files -----------------------------------------------------------------------------------------------------------


def encode_image(image: np.ndarray, suffix: str = ".jpg", quality: int = 92) -> bytes:
    """Encodes (H, W, 3) uint8 RGB as an image file. Raises UserError for an unknown suffix or a size it cannot have."""
    if suffix.lower() not in _SUFFIXES:
        raise UserError(f"Images cannot be written as '{suffix}'.", f"Known: {', '.join(sorted(_SUFFIXES))}.")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix.lower() in (".jpg", ".jpeg") else []
    try:
        done, buffer = cv2.imencode(suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise UserError(f"An image of {image.shape[1]}x{image.shape[0]} cannot be written as '{suffix}'.") from error
    if not done:
        raise UserError(f"An image of {image.shape[1]}x{image.shape[0]} cannot be written as '{suffix}'.")
    return buffer.tobytes()


def write_image(path: str | Path, image: np.ndarray, quality: int = 92) -> Path:
    """Writes (H, W, 3) uint8 RGB in the format of the path's suffix; atomic, creates folders. Returns the path."""
    path = Path(path)
    content = encode_image(image, path.suffix, quality)
    try:
        write_bytes(path, content, durable=False)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {reason_of(error)}.", "Choose another folder (out).") from error
    return path
