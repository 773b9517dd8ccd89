"""The speed-accuracy scatter chart as a PNG, drawn with OpenCV, for pages that cannot show SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from onelook.draw import write_image
from onelook.report.charts import Point, format_number, point_colours, scatter_limits, ticks
from onelook.report.labels import place_labels, short_label

_SIZE = (1240, 760)  # (width, height)
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 30, 40, 90
_INK, _MUTED, _GRID = (31, 41, 51), (102, 113, 127), (228, 232, 238)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_EDGE = 8  # pixels between text and the border


def write_scatter_png(path: Path, points: Sequence[Point], x_label: str, y_label: str) -> Path:
    """Writes the chart of `charts.scatter_chart` as a PNG of 1240 x 760 pixels; returns its path.

    Points without a name are small grey rings without a label.
    """
    width, height = _SIZE
    canvas = np.full((height, width, 3), 255, np.uint8)
    xs, ys = scatter_limits(points)

    def place(x: float, y: float) -> tuple[int, int]:
        across = (x - xs[0]) / (xs[1] - xs[0]) * (width - _LEFT - _RIGHT)
        up = (y - ys[0]) / (ys[1] - ys[0]) * (height - _TOP - _BOTTOM)
        return round(_LEFT + across), round(height - _BOTTOM - up)

    for value in ticks(*ys):
        _, y = place(xs[0], value)
        cv2.line(canvas, (_LEFT, y), (width - _RIGHT, y), _GRID, 2)
        _write(canvas, format_number(value), (_LEFT - 14, y + 7), anchor=1.0)
    for value in ticks(*xs):
        x, _ = place(value, ys[0])
        _write(canvas, format_number(value), (x, height - _BOTTOM + 32), anchor=0.5)
    cv2.line(canvas, (_LEFT, height - _BOTTOM), (width - _RIGHT, height - _BOTTOM), _MUTED, 2)
    _write(canvas, x_label, ((_LEFT + width - _RIGHT) // 2, height - 22), anchor=0.5)
    _write(canvas, y_label, (_LEFT - 14, _TOP - 20), anchor=1.0)
    labelled = [point for point in points if point.name]
    for point in points:
        if not point.name:
            cv2.circle(canvas, place(point.x, point.y), 4, _MUTED, 1, cv2.LINE_AA)
    names = [short_label(point.name) for point in labelled]
    inside = (_LEFT, width - _RIGHT, height - _BOTTOM)
    labels = place_labels([place(one.x, one.y) for one in labelled], list(map(_width, names)), 24.0, 16.0, inside)
    for point, named, name, label in zip(labelled, point_colours(labelled), names, labels):
        colour = _rgb(named)
        x, y = place(point.x, point.y)
        for end in (-point.spread[0], point.spread[1]) if any(point.spread) else ():
            cv2.line(canvas, (x, y), (x, place(point.x, point.y + end)[1]), colour, 2, cv2.LINE_AA)
        cv2.circle(canvas, (x, y), 8, colour, 2 if point.hollow else -1, cv2.LINE_AA)
        at, side = round(label.y), -1 if label.is_left else 1
        if at != y:
            cv2.line(canvas, (x, y), (x + 14 * side, at), colour, 1, cv2.LINE_AA)
        _write(canvas, name, (x + 16 * side, at + 7), anchor=float(label.is_left), colour=_INK)
    return write_image(path, canvas)


def _write(
    canvas: np.ndarray, text: str, at: tuple[int, int], *, anchor: float, colour: tuple[int, int, int] = _MUTED
) -> None:
    """Writes text at a position; anchor: 0 left-aligned, 0.5 centred, 1 right-aligned. OpenCV's font is ASCII only.

    Text that would reach over an edge is moved inside.
    """
    width = _width(text)
    left = max(min(at[0] - anchor * width, canvas.shape[1] - _EDGE - width), _EDGE)
    cv2.putText(canvas, _plain(text), (round(left), at[1]), _FONT, 0.6, colour, 1, cv2.LINE_AA)


def _width(text: str) -> float:
    (width, _), _ = cv2.getTextSize(_plain(text), _FONT, 0.6, 1)
    return float(width)


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
