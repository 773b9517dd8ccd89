"""Charts as SVG text (lines, scatter, bars, heatmap), without a plotting library and without scripts.

Matplotlib 3.11 was measured instead. It installs 80 MB beside NumPy and Pillow (fontTools, contourpy, fonts), takes
0.4 s of processor time to import and 0.4 s for the eight charts of a report (here 0.01 and 0.02 s), writes 53 kB for
five lines of 300 points (here 20 kB), and its SVG has no titles: a heatmap of 80 classes would have no readable cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from onelook.report.labels import place_labels, short_label

COLOURS = ("#2563a8", "#d9782d", "#3b8f5a", "#b8405e", "#7a5aa6", "#8a7a2f", "#2f8f9d", "#8c564b", "#5f6b7a", "#c2549d")
_INK, _MUTED, _GRID = "#1f2933", "#66717f", "#e4e8ee"
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 40
_LETTER = 6.2  # pixels, the mean width of a letter of a label


@dataclass(frozen=True, eq=False)
class Series:
    """One line of a chart; values that are not finite leave a gap. `faint` lines are grey and not in the legend."""

    name: str
    xs: Sequence[float] | np.ndarray
    ys: Sequence[float] | np.ndarray
    faint: bool = False


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Positions of axis ticks: round numbers in low..high, with steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    if whole:
        rough = max(rough, 1.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if rough <= power * factor * 1.0001)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def format_number(value: float) -> str:
    """A short label of an axis value."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.10f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:g}"


def signed(value: float) -> str:
    """A difference of AP as text: three digits with a sign, never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels of axis ticks in one format: 0, 0.5e-3, 1e-3, 1.5e-3, not 5e-4 beside 0.001."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0 or 0.01 <= largest < 10_000:
        return [format_number(value) for value in values]
    power = math.floor(math.log10(largest) + 1e-9)
    return ["0" if abs(value) < 1e-9 * largest else f"{value / 10.0**power:.6g}e{power}" for value in values]


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    size: tuple[int, int] = (520, 260),
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    whole: bool = False,
) -> str:
    """A line chart with a legend below.

    size: (width, height).  mark: a labelled vertical line.  whole: whether ticks of x are whole numbers.
    """
    width, height = size
    plot = _Plot(_limits(series, x_range, "xs"), _limits(series, y_range, "ys"), width, height)
    parts = [_axes(plot, x_label, y_label, whole)]
    named = [s for s in series if not s.faint]
    parts += [_polyline(plot, s, "#c3cbd6", 1.0, "") for s in series if s.faint]
    for index, one in enumerate(named):
        parts.append(_polyline(plot, one, COLOURS[index % len(COLOURS)], 1.8, one.name))
    if mark is not None:
        at = plot.x(mark[0])
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{plot.bottom:.1f}" stroke="{_MUTED}"'
            f' stroke-dasharray="4 3"/>{_text(at + 4, _TOP + 10, mark[1], "start")}'
        )
    legend = [(COLOURS[i % len(COLOURS)], s.name) for i, s in enumerate(named)] if len(named) > 1 else []
    return _svg(width, height, "".join(parts), f"{y_label} by {x_label}") + _legend(legend)


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart: name, position, and the error bar of y.

    spread: how far the error bar reaches below and above y.  hollow: drawn as a ring, in the colour of the last point
    that is not hollow: a value that was not measured here.
    """

    name: str
    x: float
    y: float
    spread: tuple[float, float] = (0.0, 0.0)
    hollow: bool = False


def point_colours(points: Sequence[Point]) -> list[str]:
    """The colour of each point: a new one for each that is not hollow."""
    numbers = np.cumsum([not point.hollow for point in points]) - 1
    return [COLOURS[number % len(COLOURS)] for number in numbers.tolist()]


def scatter_limits(points: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of x and y of a scatter chart: all points with their error bars, and a margin."""
    xs = [point.x for point in points] or [0.0, 1.0]
    ys = [y for point in points for y in (point.y - point.spread[0], point.y + point.spread[1])] or [0.0, 1.0]
    ranges = []
    for values in (xs, ys):
        margin = 0.08 * (max(values) - min(values)) or 0.5
        ranges.append((max(min(values) - margin, 0.0), max(values) + margin))
    return ranges[0], ranges[1]


def scatter_chart(points: Sequence[Point], x_label: str, y_label: str, *, size: tuple[int, int] = (720, 420)) -> str:
    """A scatter chart of labelled points with error bars."""
    width, height = size
    xs, ys = scatter_limits(points)
    plot = _Plot(xs, ys, width, height)
    parts = [_axes(plot, x_label, y_label)]
    names = [short_label(point.name) for point in points]
    places = [(plot.x(one.x), plot.y(one.y)) for one in points]
    inside = (_LEFT, plot.right, plot.bottom)
    labels = place_labels(places, [_LETTER * len(name) for name in names], 13.0, 8.0, inside)
    for point, colour, name, label in zip(points, point_colours(points), names, labels):
        x, y = plot.x(point.x), plot.y(point.y)
        if any(point.spread):
            low, high = plot.y(point.y - point.spread[0]), plot.y(point.y + point.spread[1])
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        look = f'fill="#ffffff" stroke="{colour}" stroke-width="1.6"' if point.hollow else f'fill="{colour}"'
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {look}/>')
        side = -1 if label.is_left else 1
        if label.y != y:
            end = x + 7 * side
            parts.append(f'<line x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{label.y:.1f}" stroke="{colour}"/>')
        parts.append(_text(x + 8 * side, label.y + 4, name, "end" if label.is_left else "start", colour=_INK))
    return _svg(width, height, "".join(parts), f"{y_label} by {x_label}")


def bar_chart(names: Sequence[str], values: Sequence[float], label: str, *, width: int = 520, digits: int = 3) -> str:
    """A chart of horizontal bars with their values, in the order given. digits: of a value, after the point."""
    row, left = 26, 120
    height = row * len(names) + 34
    top = max([*values, 1e-9])
    parts = []
    for index, (name, value) in enumerate(zip(names, values)):
        y = 8 + index * row
        length = (width - left - 70) * max(value, 0.0) / top
        parts.append(
            _text(left - 8, y + 14, name, "end")
            + f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="15" rx="2" fill="{COLOURS[0]}"/>'
            + _text(left + length + 6, y + 14, f"{value:,.{digits}f}", "start")
        )
    parts.append(_text(left, height - 8, label, "start"))
    return _svg(width, height, "".join(parts), label)


@dataclass(frozen=True)
class Change:
    """A row of a chart of differences: name, value, and the interval of the value where one is known."""

    name: str
    value: float
    interval: tuple[float, float] | None = None


def difference_chart(rows: Sequence[Change], label: str, *, width: int = 520) -> str:
    """Points with intervals beside a line at zero, in the order given; grey where zero is in the interval, or none."""
    row, left, text = 22, 130, 60
    height, bottom = row * len(rows) + 50, row * len(rows) + 8
    reach = max([abs(end) for one in rows for end in (one.value, *(one.interval or ()))] + [0.01]) * 1.05

    def place(value: float) -> float:
        return left + (value + reach) / (2 * reach) * (width - left - text)

    parts = []
    across = ticks(-reach, reach, 4)
    for value, shown in zip(across, tick_labels(across)):
        ink = _MUTED if abs(value) < 1e-12 else _GRID
        parts.append(f'<line x1="{place(value):.1f}" x2="{place(value):.1f}" y1="4" y2="{bottom}" stroke="{ink}"/>')
        parts.append(_text(place(value), bottom + 14, shown, "middle"))
    for index, one in enumerate(rows):
        y, low, high = 4 + row * (index + 0.5), *(one.interval or (0.0, 0.0))
        colour = "#8a94a3" if low <= 0 <= high else COLOURS[0] if one.value > 0 else COLOURS[3]
        if one.interval:
            parts.append(
                f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{y}" y2="{y}" stroke="{colour}"'
                ' stroke-width="1.6"/>'
            )
        parts.append(f'<circle cx="{place(one.value):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(_text(left - 8, y + 4, _short(one.name), "end", colour=_INK))
        parts.append(_text(width, y + 4, signed(one.value), "end"))
    parts.append(_text((left + width - text) / 2, bottom + 32, label, "middle"))
    return _svg(width, height, "".join(parts), label)


def heatmap(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], row_label: str, column_label: str) -> str:
    """A heatmap of a matrix of counts: the shade is the share of the row; large cells show the number."""
    count = len(rows)
    cell = max(10, min(44, 660 // max(count, 1)))
    left, top = 130, 30
    width, height = left + cell * len(columns) + 16, top + cell * count + 110
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    parts = [_text(left, 14, f"{column_label} \N{RIGHTWARDS ARROW}", "start"), _text(4, 14, row_label, "start")]
    for i in range(count):
        parts.append(_text(left - 6, top + cell * (i + 0.5) + 4, _short(rows[i]), "end"))
        for j in range(len(columns)):
            share, value = shares[i, j], int(matrix[i, j])
            x, y = left + j * cell, top + i * cell
            title = f"{rows[i]} \N{RIGHTWARDS ARROW} {columns[j]}: {value} ({share:.0%})"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{_shade(share)}">'
                f"<title>{escape(title)}</title></rect>"
            )
            if cell >= 26 and value:
                ink = "#ffffff" if share > 0.55 else _INK
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, str(value), "middle", colour=ink, size=10))
    for j, name in enumerate(columns):
        middle, below = left + cell * (j + 0.5), top + cell * count + 10
        parts.append(
            f'<text x="{middle:.1f}" y="{below}" font-size="11" fill="{_MUTED}" text-anchor="end"'
            f' transform="rotate(-55 {middle:.1f} {below})">{escape(_short(name))}</text>'
        )
    return _svg(width, height, "".join(parts), f"{row_label} by {column_label}")


class _Plot:
    """Converts values to pixel positions in a chart of the given size."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float], width: int, height: int) -> None:
        self.xs, self.ys = xs, ys
        self.right, self.bottom = width - _RIGHT, height - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self.xs
        return _LEFT + (value - low) / (high - low) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)


def _limits(series: Sequence[Series], given: tuple[float, float] | None, axis: str) -> tuple[float, float]:
    if given is not None:
        return given
    values = np.concatenate([np.asarray(getattr(s, axis), float) for s in series] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if axis == "ys":
        low = min(low, 0.0)
        high += 0.05 * (high - low)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axes(plot: _Plot, x_label: str, y_label: str, whole: bool = False) -> str:
    parts = []
    across, up = ticks(*plot.xs, whole=whole), ticks(*plot.ys)
    for value, label in zip(up, tick_labels(up)):
        y = plot.y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{plot.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 6, y + 4, label, "end"))
    for value, label in zip(across, tick_labels(across)):
        parts.append(_text(plot.x(value), plot.bottom + 15, label, "middle"))
    parts.append(f'<line x1="{_LEFT}" x2="{plot.right}" y1="{plot.bottom}" y2="{plot.bottom}" stroke="{_MUTED}"/>')
    middle = (_TOP + plot.bottom) / 2
    parts.append(_text((_LEFT + plot.right) / 2, plot.bottom + 32, x_label, "middle"))
    parts.append(
        f'<text x="12" y="{middle}" font-size="11" fill="{_MUTED}" text-anchor="middle"'
        f' transform="rotate(-90 12 {middle})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _polyline(plot: _Plot, series: Series, colour: str, stroke: float, title: str) -> str:
    xs, ys = np.asarray(series.xs, float), np.asarray(series.ys, float)
    known = np.isfinite(xs) & np.isfinite(ys)
    if not known.any():
        return ""
    if known.sum() == 1:
        x, y = plot.x(xs[known][0]), plot.y(ys[known][0])
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    path, pen_down = [], False
    for x, y, ok in zip(xs, ys, known):
        if ok:
            path.append(f"{'L' if pen_down else 'M'}{plot.x(x):.1f} {plot.y(y):.1f}")
        pen_down = bool(ok)
    name = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="{stroke}"'
        f' stroke-linejoin="round">{name}</path>'
    )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return ""
    items = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for colour, name in entries)
    return f'<div class="legend">{items}</div>'


def _svg(width: int, height: int, body: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str, *, colour: str = _MUTED, size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"


def _shade(share: float) -> str:
    low, high = np.array([245, 247, 250]), np.array([37, 99, 168])
    red, green, blue = (low + (high - low) * float(share) ** 0.7).astype(int)
    return f"rgb({red},{green},{blue})"
