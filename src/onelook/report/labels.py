"""Where the labels of a chart's points stand: beside their points, inside the plot, and not on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST = 44  # letters; of two such labels, each has room in half of a chart


@dataclass(frozen=True)
class Label:
    """The place of a label. y: of its middle, pixels downwards.  is_left: whether it ends left of its point."""

    y: float
    is_left: bool


def short_label(name: str) -> str:
    """A name of at most 44 letters: of a longer one the middle is left out."""
    half = (_LONGEST - 3) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}...{name[-half:]}"


def place_labels(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    line: float,
    gap: float,
    plot: tuple[float, float, float],
) -> list[Label]:
    """The places of the labels of points, chosen so that no label covers another, the axis of x or the right edge.

    points: (x, y) in pixels downwards.  widths: of the labels.  line: height of a label.  gap: between a point and its
    label.  plot: its left, right and bottom side. A label stands right of its point, or left of it where there is no
    room. Of labels that would overlap, the lower ones move down, and up again where they would reach the axis.
    """
    left, right, bottom = plot
    is_left = [x + gap + width > right and x - gap - width >= left for (x, _), width in zip(points, widths)]
    starts = [x - gap - width if turned else x + gap for (x, _), width, turned in zip(points, widths, is_left)]

    def meet(one: int, other: int) -> bool:
        return starts[one] < starts[other] + widths[other] and starts[other] < starts[one] + widths[one]

    heights = [y for _, y in points]
    done: list[int] = []
    for index in sorted(range(len(points)), key=lambda one: points[one][1]):
        for other in done:  # from the top down, so that a label that moves is compared with all lower ones
            if meet(index, other) and heights[index] < heights[other] + line:
                heights[index] = heights[other] + line
        done.append(index)
        done.sort(key=lambda one: heights[one])
    lower: list[int] = []
    for index in reversed(done):
        heights[index] = min(heights[index], bottom - 0.6 * line)
        for other in lower:  # from the bottom up
            if meet(index, other) and heights[index] > heights[other] - line:
                heights[index] = heights[other] - line
        lower.append(index)
        lower.sort(key=lambda one: -heights[one])
    return [Label(y, turned) for y, turned in zip(heights, is_left)]
