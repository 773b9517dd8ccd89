"""The labels of a chart's points."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from onelook.report.charts import Point, scatter_chart
from onelook.report.labels import Label, place_labels, short_label

PLOT = (60.0, 700.0, 380.0)


def test_labels_of_points_that_lie_together_stand_below_each_other() -> None:
    places = [(110.0, 50.0), (112.0, 48.0), (111.0, 52.0), (400.0, 50.0)]
    labels = place_labels(places, [120.0] * 4, 13.0, 8.0, PLOT)
    assert [one.y for one in labels] == [61.0, 48.0, 74.0, 50.0] and not any(one.is_left for one in labels)
    assert place_labels([(100.0, 5.0), (100.0, 30.0)], [50.0] * 2, 13.0, 8.0, PLOT) == [
        Label(5.0, False),
        Label(30.0, False),
    ]


def test_labels_on_the_axis_stand_above_it() -> None:
    labels = place_labels([(100.0, 380.0)] * 3, [50.0] * 3, 13.0, 8.0, PLOT)
    heights = sorted(one.y for one in labels)
    assert heights[-1] + 6.5 <= 380.0 and all(b - a >= 13.0 for a, b in pairwise(heights))


@given(st.lists(st.tuples(st.floats(60, 700), st.floats(200, 380), st.floats(5, 300)), min_size=1, max_size=9))
def test_labels_are_inside_the_plot_and_apart(points: list[tuple[float, float, float]]) -> None:
    widths = [width for _, _, width in points]
    labels = place_labels([(x, y) for x, y, _ in points], widths, 13.0, 8.0, PLOT)
    boxes = []
    for (x, _, width), label in zip(points, labels):
        left = x - 8 - width if label.is_left else x + 8
        assert left >= 59.9 and left + width <= 700.1 and label.y + 6.5 <= 380.0
        boxes.append((left, left + width, label.y))
    for place, (left, right, y) in enumerate(boxes):
        for other_left, other_right, other_y in boxes[:place]:
            assert right <= other_left or other_right <= left or abs(y - other_y) >= 12.9


def test_long_names_lose_their_middle() -> None:
    assert short_label("a" * 44) == "a" * 44
    short = short_label("runs/" + "x" * 80 + "/best.onnx")
    assert len(short) <= 44 and short.startswith("runs/") and short.endswith("/best.onnx")


def test_the_last_label_of_a_chart_ends_left_of_its_point() -> None:
    chart = scatter_chart([Point("first", 1, 0.0), Point("a name of some length", 2, 0.0)], "x", "y")
    assert 'text-anchor="end">a name of some length<' in chart and 'text-anchor="start">first<' in chart
