"""Drawing of boxes with their names, legible from thumbnails to posters, and atomic writing of images."""

from __future__ import annotations

import colorsys
import os
import secrets
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from onelook.errors import UserError

_FONT = cv2.FONT_HERSHEY_DUPLEX
_SMALLEST_FONT = 0.35  # below, OpenCV's strokes run into each other
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

Colour = tuple[int, int, int]


@lru_cache(maxsize=4096)
def class_colour(label: int) -> Colour:
    """RGB of a class: always the same, and far from its neighbours' (hues by the golden ratio, two brightnesses)."""
    hue = (0.58 + label * 0.618033988749895) % 1.0
    bright = (0.95, 0.72, 0.85)[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.75, 0.95)[(label // 3) % 3], bright)
    return round(red * 255), round(green * 255), round(blue * 255)


def plain_text(text: str) -> str:
    """What OpenCV's fonts can draw of a name: accents are dropped, other scripts become question marks."""
    decomposed = unicodedata.normalize("NFKD", text)
    kept = (mark for mark in decomposed if not unicodedata.combining(mark))
    return "".join(mark if " " <= mark <= "~" else "?" for mark in kept)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray | None,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    colour: Colour | None = None,
    text: bool = True,
) -> np.ndarray:
    """A copy of an image with boxes on it, the best on top.

    image: (H, W, 3) uint8 RGB.  boxes: (K, 4) xyxy pixels, best first.  scores: (K,), None to leave them out.
    labels: (K,) which choose the colours, unless `colour` is given.  names: K names.  text: whether to write names.

    Lines and letters grow with the image; a name that has no room on a small image is left out.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    if not len(boxes) or not height or not width:
        return canvas
    unit = max(height, width)
    thickness = max(1, round(unit / 450))
    corners = _corners(boxes, height, width)
    colours = [colour or class_colour(int(label)) for label in labels]
    for row in reversed(range(len(corners))):
        left, top, right, bottom = corners[row]
        cv2.rectangle(canvas, (left, top), (right, bottom), colours[row], thickness)
    if text:
        captions = list(names) if scores is None else [f"{n} {s:.2f}" for n, s in zip(names, scores.tolist())]
        _write_captions(canvas, corners, [plain_text(caption) for caption in captions], colours, thickness)
    return canvas


def _corners(boxes: np.ndarray, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Whole pixels inside the image: OpenCV counts in int32, and a box may reach far beyond."""
    finite = np.nan_to_num(np.asarray(boxes, np.float64), nan=0.0, posinf=1e9, neginf=-1e9)
    limits = np.array([width, height, width, height], np.float64) - 1
    return [tuple(row) for row in np.clip(np.round(finite), 0, limits).astype(int).tolist()]


def _write_captions(
    canvas: np.ndarray,
    corners: Sequence[tuple[int, int, int, int]],
    captions: Sequence[str],
    colours: Sequence[Colour],
    thickness: int,
) -> None:
    """Captions on a plate of their box's colour, where they hide no other; the best box chooses first."""
    height, width = canvas.shape[:2]
    scale = max(_SMALLEST_FONT, min(height, width) / 1250)
    stroke = max(1, round(scale * 1.1))
    taken = np.zeros((0, 4))
    for corner, caption, colour in zip(corners, captions, colours):
        (text_width, text_height), baseline = cv2.getTextSize(caption, _FONT, scale, stroke)
        pad = max(2, round(text_height * 0.3))
        plate = (text_width + 2 * pad, text_height + baseline + pad)
        if plate[0] > width or plate[1] > height / 4:
            continue
        left, top, hidden = _place(corner, plate, (height, width), taken, thickness)
        if hidden > 0.5:
            continue  # in a crowd, half a caption more would cost a whole one that is read
        right, bottom = left + plate[0], top + plate[1]
        taken = np.vstack([taken, [left, top, right, bottom]])
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)
        ink = (0, 0, 0) if _luminance(colour) > 0.45 else (255, 255, 255)
        place = (left + pad, top + pad // 2 + text_height)
        cv2.putText(canvas, caption, place, _FONT, scale, ink, stroke, cv2.LINE_AA)


def _place(
    corner: tuple[int, int, int, int],
    plate: tuple[int, int],
    size: tuple[int, int],
    taken: np.ndarray,
    thickness: int,
) -> tuple[int, int, float]:
    """Left and top of a caption, and the share of it that would hide others: above its box, inside it or below it."""
    left, top, _, bottom = corner
    edge = thickness // 2
    x = min(max(0, left - edge), size[1] - plate[0])
    options = [top - plate[1] - edge + 1, top + edge, bottom + edge, bottom - plate[1] - edge]
    inside = [y for y in options if 0 <= y <= size[0] - plate[1]] or [max(0, size[0] - plate[1])]
    hidden = [_overlap((x, y, x + plate[0], y + plate[1]), taken) for y in inside]
    best = int(np.argmin(hidden))
    return x, inside[best], hidden[best] / (plate[0] * plate[1])


def _overlap(box: tuple[int, int, int, int], others: np.ndarray) -> float:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(sides.clip(min=0).prod(1).sum())


def _luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0..1 (WCAG 2), which decides between black and white letters."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def encode_image(image: np.ndarray, suffix: str = ".jpg", quality: int = 92) -> bytes:
    """(H, W, 3) uint8 RGB as the bytes of an image file. Raises UserError for an unknown suffix or size."""
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
    """Writes (H, W, 3) uint8 RGB in the format of the path's suffix; atomic, folders are made. Returns the path."""
    path = Path(path)
    content = encode_image(image, path.suffix, quality)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"'{path}' cannot be written: {error.strerror}.", "Choose another --out folder.") from error
    return path
