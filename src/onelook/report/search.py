"""The chart of a search: the score of structures against their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onelook.report.charts import Point
from onelook.report.scatter_png import write_scatter_png


def write_search_chart(
    path: Path, random: Sequence[tuple[float, float]], named: Mapping[str, tuple[float, float]], cost: str
) -> Path:
    """Writes a scatter chart as a PNG. random, named: pairs of cost and score.  cost: its name and unit.

    Random structures are small grey rings; the named ones are filled, each in a colour of its own.
    """
    points = [Point("", x, y) for x, y in random]
    points += [Point(name, x, y) for name, (x, y) in named.items()]
    return write_scatter_png(path, points, cost, "score")
