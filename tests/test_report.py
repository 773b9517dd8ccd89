"""The report: whole without a network, and true to the numbers it is given."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook.data import open_dataset
from onelook.evaluation.coco import Evaluation, score
from onelook.evaluation.tables import GroundTruth, Results
from onelook.report.build import IMAGE_SIDE, annotation_hints, example_images, read_metrics
from onelook.report.charts import Point, Series, heatmap, line_chart, tick_labels, ticks
from onelook.report.page import Report, ReportImage, render, write_report
from onelook.report.scatter_png import write_scatter_png
from shared import data, needs_shared


def evaluation(names: tuple[str, ...] = ("cup", "<b>spoon</b>")) -> Evaluation:
    boxes = np.array([[10.0, 10, 20, 20], [50, 50, 120, 120], [5, 5, 10, 10]])
    truth = GroundTruth(
        np.array([4, 9]),
        ("a.jpg", "b.jpg"),
        names,
        (1, 2),
        np.array([0, 0, 1]),
        np.array([0, 0, 0]),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        np.zeros(3, bool),
    )
    found = Results(np.array([0, 0, 1]), np.array([0, 0, 1]), boxes, np.array([0.9, 0.8, 0.7]))
    return score(truth, found)


def report(**changes: object) -> Report:
    history = [
        {"epoch": 1, "loss/box": 2.0, "loss/classes": 1.0, "lr": 0.01, "AP": "", "AP50": ""},
        {"epoch": 2, "loss/box": 1.0, "loss/classes": 0.5, "lr": 0.005, "AP": 0.25, "AP50": 0.5},
    ]
    given = {
        "title": "tiny <run>",
        "history": history,
        "evaluation": evaluation(),
        "facts": {"model": "yolox-nano"},
        "recipe_text": "epochs: 2\n",
        "changes": [("epochs", "300", "2")],
        "worst": [ReportImage(b"\xff\xd8", "b.jpg: 1 missed")],
    }
    return Report(**(given | changes))


class Tags(HTMLParser):
    """Every tag is closed in order, and every address is inside the page."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def test_report_is_well_formed_and_loads_nothing() -> None:
    page = render(report())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(address.startswith("data:") for address in tags.addresses)
    assert "<script" not in page and "@import" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_names_from_the_data_are_text_not_markup() -> None:
    page = render(report())
    assert "<b>spoon</b>" not in page
    assert "&lt;b&gt;spoon&lt;/b&gt;" in page


def test_numbers_of_the_evaluation_are_in_the_report() -> None:
    one = evaluation()
    page = render(report(evaluation=one))
    assert f"<b>{one.stats['AP']:.3f}</b>" in page
    assert f"<td>{one.by_size['cup']['APl']:.3f}</td>" in page
    assert one.by_size["cup"]["APl"] == pytest.approx(1.0)
    assert one.by_size["<b>spoon</b>"] == {"APs": -1, "APm": -1, "APl": -1}
    assert "\N{EN DASH}" in page  # undefined numbers are dashes, never -1


def test_training_without_evaluation_or_changes_still_has_a_report(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", report(evaluation=None, changes=[], worst=[], history=[]))
    assert "Exactly the published recipe." in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 0.0005, 0.001, 0.0015, 0.002], ["0", "0.5e-3", "1e-3", "1.5e-3", "2e-3"]),
        ([0, 0.2, 0.4], ["0", "0.2", "0.4"]),
        ([0, 0.005, 0.01], ["0", "0.005", "0.01"]),
        ([0, 20_000.0, 100_000.0], ["0", "0.2e5", "1e5"]),
        ([0.0], ["0"]),
    ],
)
def test_tick_labels_have_one_format(values: list[float], labels: list[str]) -> None:
    assert tick_labels(values) == labels


def test_ticks_of_epochs_are_whole_numbers() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3] and ticks(0.5, 1.5, whole=True) == [1]
    assert ticks(1, 300, whole=True) == [100, 200, 300] and 1.5 in ticks(1, 3)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_ascending_and_inside(low: float, extent: float) -> None:
    high = low + extent
    if not high > low:
        return
    marks = ticks(low, high)
    assert 1 <= len(marks) <= 8
    assert marks == sorted(marks)
    slack = 1e-6 * (abs(low) + abs(high) + extent)
    assert low - slack <= marks[0] and marks[-1] <= high + slack


def test_missing_values_are_gaps_in_a_line() -> None:
    chart = line_chart([Series("a", [0, 1, 2, 3, 4], [1, 2, float("nan"), 3, 4])], "x", "y")
    path = re.search(r'<path d="([^"]*)"', chart)
    assert path is not None and path.group(1).count("M") == 2


def test_empty_rows_of_a_heatmap_have_no_share() -> None:
    chart = heatmap(np.array([[0, 0], [3, 1]]), ["a", "b"], ["a", "b"], "annotated", "detected")
    assert "b \N{RIGHTWARDS ARROW} a: 3 (75%)" in chart
    assert "a \N{RIGHTWARDS ARROW} a: 0 (0%)" in chart


@needs_shared
def test_worst_and_best_images_are_drawn_once_each_worst_first() -> None:
    dataset = open_dataset(data("coco_mini"), "val")
    truth = GroundTruth.from_coco(dataset.coco_ground_truth())
    listed = json.loads((data("coco_mini") / "detections_yolox_nano.json").read_text())
    labels = {number: label for label, number in enumerate(truth.category_ids)}
    found = Results(
        truth.rows_of_images(np.array([entry["image_id"] for entry in listed])),
        np.array([labels[entry["category_id"]] for entry in listed]),
        np.array([entry["bbox"] for entry in listed]),
        np.array([entry["score"] for entry in listed]),
    )
    one = score(truth, found)
    worst, best = example_images(one, dataset, dataset.names, count=4)
    assert len(worst) == len(best) == 4
    assert not {p.caption.split(":")[0] for p in worst} & {p.caption.split(":")[0] for p in best}
    assert all(": 0 found" in image.caption for image in worst)
    assert all("0 missed, 0 wrong" in image.caption for image in best)
    image = cv2.imdecode(np.frombuffer(worst[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert max(image.shape[:2]) == IMAGE_SIDE
    assert "is annotated as" in annotation_hints(one)[0]


def test_history_keeps_numbers_and_leaves_empty_cells_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss/box,AP,note\n1,2.5,,slow\n2,1.5,0.25,\n")
    rows = read_metrics(tmp_path / "metrics.csv")
    assert rows == [{"epoch": 1.0, "loss/box": 2.5, "note": "slow"}, {"epoch": 2.0, "loss/box": 1.5, "AP": 0.25}]


@pytest.mark.parametrize("title", ["AP (per cent)", "streaming AP of all forecasts (per cent)"])
def test_the_title_of_an_axis_is_whole_however_long_it_is(title: str, tmp_path: Path) -> None:
    points = [Point("a", 1.0, 34.0), Point("b", 2.0, 36.0)]
    drawn = cv2.imread(str(write_scatter_png(tmp_path / "chart.png", points, "ms", title)))
    assert (drawn[:, :4] == 255).all()  # nothing reaches the edge
    beside = cv2.imread(str(write_scatter_png(tmp_path / "none.png", points, "ms", "")))
    across = np.flatnonzero((drawn != beside).any(axis=(0, 2)))
    (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    assert np.ptp(across) > 0.9 * width
