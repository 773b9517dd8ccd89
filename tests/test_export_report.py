"""The page about an exported file: what is compared, what it says, and which requests are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onelook.api import export_report
from onelook.cli.app import run
from onelook.exporting.differences import NamedImages, detection_differences, raw_differences
from onelook.ops.nms import Nms
from onelook.report import deployment
from onelook.weights import save_weights
from spread_detector import own_data, shallow_detector

SIZE = (64, 96)


class Fixed:
    """A runtime whose network gives the same rows for every image."""

    def __init__(self, boxes: np.ndarray, scores: np.ndarray) -> None:
        self.boxes, self.scores = boxes, scores

    def __call__(self, batch: np.ndarray, postprocess: Any) -> Any:
        return postprocess.batch(np.stack([self.boxes] * len(batch)), np.stack([self.scores] * len(batch)))


BOXES = np.array([[10, 10, 30, 40], [50, 10, 90, 60], [0, 0, 5, 5]], np.float32)
SCORES = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.0]], np.float32)
IMAGES = NamedImages(np.zeros((2, *SIZE, 3), np.uint8), ("a.png", "b.png"), "two images")


def test_raw_outputs_are_compared_by_output_and_image() -> None:
    boxes, scores = BOXES.copy(), SCORES.copy()
    boxes[1, 0] += 2  # of a confident row
    boxes[2, 3] += 4  # of background
    scores[0, 1] += 0.25
    found = raw_differences(Fixed(boxes, scores), Fixed(BOXES, SCORES), IMAGES)
    confident, every, scored = found.outputs
    assert (confident.count, confident.largest, confident.p50) == (2 * 8, 2.0, 0.0)
    assert (every.count, every.largest) == (2 * 12, 4.0) and every.mean == pytest.approx(6 / 12)
    assert scored.count == 2 * 6 and scored.largest == pytest.approx(0.25)
    assert [(one.image, one.box) for one in found.images] == [("a.png", 2.0), ("b.png", 2.0)]


def test_a_box_beyond_the_image_does_not_count_and_one_that_is_not_finite_is_told() -> None:
    boxes = BOXES.copy()
    boxes[1, 2] = np.inf
    expected = BOXES.copy()
    expected[0, 2], boxes[0, 2] = 200, 300
    found = raw_differences(Fixed(boxes, SCORES), Fixed(expected, SCORES), IMAGES)
    assert found.outputs[1].largest == 0 and found.notes == ("2 numbers of boxes are finite on one side only.",)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.23e-7, "1.2e-07"), (0.216, "0.22"), (15.4, "15"), (99.4, "99"), (103.7, "104"), (12345.6, "12,346"),
     (float("inf"), "inf")],
)  # fmt: skip
def test_a_difference_of_many_pixels_has_no_exponent(value: float, shown: str) -> None:
    assert deployment._number(value) == shown


def test_detections_are_matched_by_class_and_overlap() -> None:
    boxes, scores = BOXES.copy(), SCORES.copy()
    boxes[0, 0] += 1
    scores[1] = 0.7, 0.2  # another class: no partner
    found = detection_differences(Fixed(boxes, scores), Fixed(BOXES, SCORES), IMAGES, Nms(0.5, 0.5))
    count, box, score = found.outputs
    assert (count.count, count.largest) == (2, 0.0)
    assert (box.count, box.largest, score.count, score.largest) == (2 * 4, 1.0, 2, 0.0)
    assert "PyTorch has 4 detections" in found.notes[0] and "4 of either side" in found.notes[0]
    nothing = detection_differences(Fixed(BOXES, SCORES * 0), Fixed(BOXES, SCORES), IMAGES, Nms(0.5, 0.5))
    assert nothing.outputs[1].count == 0 and nothing.outputs[0].largest == 2.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_command_writes_a_page_about_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(export_report, "MOST_TURNS", 3)
    threads = torch.get_num_threads()
    detector = shallow_detector(SIZE)
    weights = save_weights(detector, tmp_path / "a.safetensors")
    data = own_data(detector, tmp_path / "data", SIZE, {"train": (0, 1), "val": (1, 4)})
    page = tmp_path / "a.html"
    given = ["export", "--model", str(weights), "--out", str(tmp_path / "a.onnx"), "--report", str(page)]
    assert run([*given, "--report-data", str(data)]) == 0
    assert str(page) in capsys.readouterr().out
    assert torch.get_num_threads() == threads
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|(?:src|href)=", text)
    for words in ("boxes of all rows (px)", "all its images", "PyTorch, float32", "köw", "001.png", "p99 ms"):
        assert words in text
    assert f"onelook detect photo.jpg --model {tmp_path / 'a.onnx'}" in text
    assert "build/detect_opencv" in text and "detect_ncnn" not in text
    aps = re.findall(r"<tr><td>[^<]*float32</td><td>(\d\.\d+)</td>", text)
    assert len(aps) == 2 and abs(float(aps[0]) - float(aps[1])) < 0.02
    assert float(aps[0]) > 0.5  # the objects are the model's own detections
    assert run([*given, "--overwrite", "--report-data", str(tmp_path / "nowhere")]) == 1
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--report-data", "."], 2, "no report"),
        (["--report", "page.txt"], 2, "ends in .html"),
        (["--report", "nowhere/page.html"], 1, "a folder that exists"),
        (["--report", "page.html", "--to", "darknet"], 2, "--report cannot be chosen"),
        (["--report", "there.html"], 1, "exists already"),
    ],
)
def test_mistakes_are_one_message(flags: list[str], code: int, message: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "there.html").touch()
    flags = [str(tmp_path / one) if "page" in one or one == "there.html" else one for one in flags]
    assert run(["export", "--model", "yolov4-tiny", "--weights", "none", *flags]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert [one.name for one in tmp_path.iterdir()] == ["there.html"]
