"""Operating points and calibration against their definitions, and the report that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onelook
from browser import needs_browser, open_browser
from onelook.cli.app import run
from onelook.evaluation.operating import calibration, operating_points
from onnx_models import write_model

FOUND = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9, 1.0]), st.booleans()), max_size=12)


@settings(max_examples=60, deadline=None)
@given(found=FOUND, missed=st.integers(0, 5), target=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_an_operating_point_is_the_highest_threshold_that_reaches_the_recall(
    found: list[tuple[float, bool]], missed: int, target: float
) -> None:
    scores, right = np.array([score for score, _ in found]), np.array([hit for _, hit in found], bool)
    objects = int(right.sum()) + missed
    (point,) = operating_points(scores, right, objects, [target])
    reaching = [
        threshold for threshold in sorted(set(scores.tolist())) if right[scores >= threshold].sum() >= target * objects
    ]
    if not objects or not reaching:
        assert point.confidence is None and point.precision is None
        return
    kept = scores >= max(reaching)
    assert point.confidence == max(reaching)
    assert point.precision == pytest.approx(right[kept].mean())
    assert point.recall == pytest.approx(right[kept].sum() / objects)


def test_calibration_is_the_weighted_difference_of_confidence_and_precision() -> None:
    scores = np.array([0.05, 0.15, 0.15, 0.95, 0.95, 1.0])
    right = np.array([True, False, False, True, True, False])
    found = calibration(scores, right)
    assert [(one.low, one.high, one.detections) for one in found.bins] == [(0.1, 0.2, 2), (0.9, 1.0, 3)]
    assert found.error == pytest.approx((2 * 0.15 + 3 * abs((0.95 + 0.95 + 1.0) / 3 - 2 / 3)) / 5)
    assert calibration(np.zeros(0), np.zeros(0, bool)).error is None
    honest = np.repeat(np.array([0.25, 0.75]), 4)
    assert calibration(honest, np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)).error == pytest.approx(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White and grey images whose objects are the two boxes of the small model, or lack one of them."""
    root = tmp_path_factory.mktemp("data")
    (root / "val").mkdir()
    images, annotations = [], []
    for number in range(6):
        cv2.imwrite(str(root / "val" / f"{number}.png"), np.full((64, 64, 3), 255 - 20 * number, np.uint8))
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": 64, "height": 64})
        boxes = [(1, [4, 4, 16, 16]), (2, [30, 10, 30, 30])]
        for category, box in boxes[: 2 - number % 2]:
            entry = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": category, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def test_val_prints_thresholds_and_writes_all_results_and_a_report(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, report, plain = write_model(tmp_path / "small.onnx"), tmp_path / "val.html", tmp_path / "val.json"
    assert run(["val", str(data), "--model", str(model), "--report", str(report), "--json", str(plain)]) == 0
    printed = capsys.readouterr().out
    assert "best confidence: 0." in printed and "for a recall of" in printed and str(report) in printed
    values = json.loads(plain.read_text())
    assert values["objects"] == {"cat": 6, "dog": 3} and 0 < values["best_confidence"] < 1
    assert [point["recall_target"] for point in values["operating_points"]] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    assert len(values["image_scores"]) == 6 and np.shape(values["confusion"]["matrix"]) == (3, 3)
    assert values["calibration"]["bins"] and values["error_types"]["counts"]
    html = report.read_text()
    for words in ("Operating points", "Calibration", "small.onnx on", "Worst images", "best confidence"):
        assert words in html
    assert "http://" not in html.replace("http://www.w3.org", "") and "<script" not in html and "Recipe" not in html


@needs_browser
@pytest.mark.slow
def test_the_report_has_no_overlapping_numbers_and_bars(data: Path, tmp_path: Path) -> None:
    report = tmp_path / "val.html"
    onelook.validate(write_model(tmp_path / "small.onnx"), data, report=report, reporter=onelook.SilentReporter())
    with open_browser() as browser:
        tab = browser.tab()
        tab.open(report.as_uri())
        gap = tab.evaluate(
            "(() => { const bar = document.querySelector('td.bar'); const range = document.createRange();"
            " range.selectNodeContents(bar.previousElementSibling);"
            " return bar.querySelector('i').getBoundingClientRect().left - range.getBoundingClientRect().right })()"
        )
        assert gap >= 12 and not tab.problems()
