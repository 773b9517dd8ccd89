"""The charts of `onelook view`: classes, sizes, shapes and places of objects, and how the splits differ."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from onelook.data.statistics import Statistics, drift
from onelook.report.charts import Series, bar_chart, heatmap, line_chart

MOST_CLASSES = 30  # bars and rows of a matrix; the most frequent ones
_BINS = 40


def chart_sections(found: Sequence[tuple[str, Statistics]]) -> list[str]:
    """The sections of a page, of splits with equal classes."""
    total = np.sum([one.per_class for _, one in found], axis=0)
    if not np.sum(total):
        return []
    return [_classes(found, total), _sizes(found), _places(found), _together(found, total), _drift(found, total)]


def _section(title: str, body: str, lead: str = "") -> str:
    return f'<section><h2>{escape(title)}</h2><p class="lead">{escape(lead)}</p>{body}</section>'


def _classes(found: Sequence[tuple[str, Statistics]], total: np.ndarray) -> str:
    names = found[0][1].names
    order = np.argsort(-total, kind="stable")[:MOST_CLASSES].tolist()
    counts = [float(total[label]) for label in order]
    bars = bar_chart([names[label] for label in order], counts, "objects, all splits", digits=0)
    absent = [names[label] for label in np.flatnonzero(total == 0).tolist()]
    lead = f"{len(names)} classes" + (
        f", the {MOST_CLASSES} most frequent are shown" if len(names) > len(order) else ""
    )
    lead += f"; without any object: {', '.join(absent[:10])}{', ...' if len(absent) > 10 else ''}." if absent else "."
    return _section("Classes", bars, lead)


def _histogram(values: Sequence[tuple[str, np.ndarray]], x_label: str, low: float, high: float) -> str:
    """Shares by a logarithmic axis: lines, one a split."""
    edges = np.geomspace(low, high, _BINS + 1)
    middle = np.log2(np.sqrt(edges[1:] * edges[:-1]))
    series = []
    for name, numbers in values:
        counts = np.histogram(np.clip(numbers, low, high), edges)[0]
        series.append(Series(name, middle, counts / max(1, len(numbers))))
    return f"<div>{line_chart(series, x_label, 'share')}</div>"


def _sizes(found: Sequence[tuple[str, Statistics]]) -> str:
    largest = max(float(np.max(one.image_sizes, initial=2)) for _, one in found)
    charts = [
        _histogram([(n, s.sides) for n, s in found], "side of objects in pixels, log2", 1.0, max(2.0, largest)),
        _histogram([(n, s.relative_sides) for n, s in found], "side of objects by that of the image, log2", 0.002, 1.0),
        _histogram([(n, s.aspects) for n, s in found], "width by height of objects, log2", 1 / 16, 16.0),
        _histogram(
            [(n, np.sqrt(np.prod(s.image_sizes.astype(float), 1))) for n, s in found],
            "side of images in pixels, log2",
            16.0,
            max(32.0, largest),
        ),
    ]
    lead = "A side is the square root of the area. 5 on a scale of log2 is 32 pixels, 6.6 is 96."
    return _section("Sizes and shapes", f'<div class="charts">{"".join(charts)}</div>', lead)


def _places(found: Sequence[tuple[str, Statistics]]) -> str:
    maps = []
    for name, one in found:
        count = len(one.positions)
        most = max(1, int(np.max(one.positions)))
        cells = "".join(
            f'<rect x="{column * 18}" y="{row * 18}" width="17" height="17" fill="#2563a8"'
            f' fill-opacity="{0.03 + 0.97 * value / most:.3f}"><title>{value}</title></rect>'
            for row, line in enumerate(one.positions.tolist())
            for column, value in enumerate(line)
        )
        side = count * 18
        maps.append(
            f"<div><svg viewBox='0 0 {side} {side}' width='{side}' height='{side}' role='img'"
            f" aria-label='positions'>{cells}</svg><figcaption>{escape(name)}</figcaption></div>"
        )
    return _section("Positions", f'<div class="charts">{"".join(maps)}</div>', "Where the centres of objects are.")


def _together(found: Sequence[tuple[str, Statistics]], total: np.ndarray) -> str:
    names = found[0][1].names
    order = np.argsort(-total, kind="stable")[:MOST_CLASSES]
    together = np.sum([one.together for _, one in found], axis=0)[np.ix_(order, order)]
    labels = [names[label] for label in order.tolist()]
    lead = "How many images show both classes; the diagonal, how many show the class."
    matrix = heatmap(together, labels, labels, "class", "shown with")
    return _section("Seen together", f'<div class="wide">{matrix}</div>', lead)


def _drift(found: Sequence[tuple[str, Statistics]], total: np.ndarray) -> str:
    if len(found) < 2:
        return ""
    names, (first_name, first) = found[0][1].names, found[0]
    head = "<th>class</th>" + "".join(f"<th>{escape(name)}</th>" for name, _ in found) + "<th>largest difference</th>"
    shares = np.array([one.per_class / max(1, one.objects) for _, one in found])
    spread = np.max(shares, axis=0) - np.min(shares, axis=0)
    rows = ""
    for label in np.argsort(-spread, kind="stable")[:MOST_CLASSES].tolist():
        if total[label]:
            cells = "".join(f"<td>{100 * share:.2f} %</td>" for share in shares[:, label].tolist())
            rows += f"<tr><td>{escape(names[label])}</td>{cells}<td>{100 * spread[label]:.2f}</td></tr>"
    said = []
    for name, one in found[1:]:
        distance = drift(first.per_class, one.per_class)
        if distance is not None:
            said.append(f"{first_name} and {name}: {distance:.3f}")
        missing = [names[k] for k in np.flatnonzero((first.per_class == 0) & (one.per_class > 0)).tolist()]
        if missing:
            said.append(f"only in {name}, not in {first_name}: {', '.join(missing[:10])}")
    lead = "Shares of the classes; total variation distance (0 equal, 1 nothing in common) " + "; ".join(said) + "."
    return _section("Splits compared", f'<table class="numbers"><tr>{head}</tr>{rows}</table>', lead)
