"""`onelook detect` that is ended and continued, in parts, into folders that hold something; and what it draws."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onelook
from onelook.api.detect_output import parse_shard, selected_labels, shard_of
from onelook.cli.app import run
from onelook.draw import draw_detections
from onelook.errors import DataError, ImageError, UsageError
from onelook.predict.sources import Source
from onelook.types import Detections
from onnx_models import write_model

SLOW = """
import sys, time
from onelook.predict.predictor import Predictor
run = Predictor.run
Predictor.run = lambda *given: (time.sleep(0.03), run(*given))[1]
from onelook.cli.app import main
main(sys.argv[1:])
"""
COUNT = 36


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        cv2.imwrite(str(folder / f"{number:02}.png"), np.full((48, 64, 3), 200 + number % 50, np.uint8))
    return folder


def detect(*arguments: object) -> int:
    return run(["detect", *map(str, arguments)])


def entries(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "detections.json").read_text()))


def journal(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "detections.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def ended_by(number: int, arguments: Sequence[object], out: Path) -> subprocess.Popen[str]:
    """A run that a signal ends after some lines."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "detect", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not ((out / "detections.jsonl").is_file() and len(journal(out)) > 3):
        time.sleep(0.01)
    process.send_signal(number)
    return process


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_a_run_that_was_ended_continues_and_equals_a_whole_one(
    model: Path, photos: Path, tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = ["--format", "json,csv,coco,yolo"]
    arguments = [photos, "--model", model, "--out", tmp_path / "out", *formats]
    process = ended_by(getattr(signal, number), arguments, tmp_path / "out")
    said, error = process.communicate()
    if number == "SIGTERM":
        assert process.returncode == 130 and "Traceback" not in error, error
        assert "--resume continues" in said and len(entries(tmp_path / "out")) >= 3
    assert 3 <= len(journal(tmp_path / "out")) < COUNT
    assert detect(*arguments, "--resume") == 0
    assert "done before" in capsys.readouterr().out
    assert detect(photos, "--model", model, "--out", tmp_path / "whole", *formats) == 0
    for name in ("detections.json", "detections.csv", "coco.json", "coco_images.json", "detections.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(list((tmp_path / "out" / "labels").iterdir())) == COUNT
    assert not list((tmp_path / "out").glob(".*"))


def clip(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(frames):
        writer.write(np.full((48, 64, 3), 230, np.uint8))
    writer.release()
    return path


def cut(folder: Path, lines: int, more: str = "") -> None:
    """Makes a finished run look as if it had been killed after some lines, in the middle of the next."""
    path = folder / "detections.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]) + more)
    record = json.loads((folder / "detect.json").read_text())
    (folder / "detect.json").write_text(json.dumps({**record, "finished": False}))


def test_a_video_that_was_not_finished_starts_again_and_failures_are_tried_again(model: Path, tmp_path: Path) -> None:
    sources = [clip(tmp_path / "a.mp4", 4), clip(tmp_path / "b.mp4", 5), tmp_path / "broken.png", tmp_path / "c.png"]
    sources[2].write_bytes(b"no image")
    cv2.imwrite(str(sources[3]), np.full((48, 64, 3), 230, np.uint8))
    out = tmp_path / "out"
    arguments = [*sources, "--model", model, "--out", out, "--format", "json"]
    assert detect(*arguments) == 1
    whole = entries(out)
    assert [(Path(line["source"]).name, "error" in line) for line in journal(out)][-2:] == [
        ("broken.png", True),
        ("c.png", False),
    ]
    cut(out, 6, '{"source": "b')  # two frames of b
    assert detect(*arguments, "--resume") == 1 and entries(out) == whole
    cv2.imwrite(str(sources[2]), np.full((48, 64, 3), 230, np.uint8))
    result = onelook.detect(model, sources, out=out, formats="json", resume=True, reporter=onelook.SilentReporter())
    assert (result.images, result.frames, result.resumed, result.failures) == (2, 9, 10, [])


def test_resuming_asks_for_the_same_settings_and_a_run(model: Path, photos: Path, tmp_path: Path) -> None:
    silent = onelook.SilentReporter()
    source, out = photos / "00.png", tmp_path / "out"
    onelook.detect(model, source, out=out, formats="json", reporter=silent)
    with pytest.raises(UsageError, match=r"'confidence' was 0\.25 in this run, and is 0\.5 now"):
        onelook.detect(model, source, out=out, formats="json", confidence=0.5, resume=True, reporter=silent)
    again = onelook.detect(model, source, out=out, formats="json", resume=True, reporter=silent)
    assert again.resumed == again.images == 1
    with pytest.raises(onelook.UserError, match="has no detection to resume"):
        onelook.detect(model, source, out=tmp_path, formats="json", resume=True, reporter=silent)
    with pytest.raises(UsageError, match="which run"):
        onelook.detect(model, source, resume=True, reporter=silent)
    with pytest.raises(UsageError, match="cannot be resumed"):
        onelook.detect(model, 0, out=out, resume=True, reporter=silent)
    (out / "detections.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match=r"detections\.jsonl:1"):
        onelook.detect(model, source, out=out, formats="json", resume=True, reporter=silent)


def test_a_folder_with_results_is_not_overwritten_silently(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [photos / "00.png", "--model", model, "--out", tmp_path, "--format", "json"]
    (tmp_path / "notes.txt").write_text("mine")
    assert detect(*arguments) == 0  # nothing is in the way
    before = (tmp_path / "detections.json").read_bytes()
    assert detect(*arguments, "--confidence", "0.99") == 2
    assert "holds results already" in capsys.readouterr().err
    assert (tmp_path / "detections.json").read_bytes() == before
    assert detect(*arguments, "--confidence", "0.99", "--resume", "--overwrite") == 2
    assert detect(*arguments, "--confidence", "0.99", "--overwrite") == 0
    assert (tmp_path / "detections.json").read_bytes() != before and (tmp_path / "notes.txt").is_file()


def test_shards_are_disjoint_and_together_everything(model: Path, photos: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        shard = f"{number}/3"
        assert detect(photos, "--model", model, "--out", tmp_path, "--format", "json", "--shard", shard) == 0
    parts = [[entry["source"] for entry in entries(tmp_path / f"{number}-of-3")] for number in (1, 2, 3)]
    assert sorted(chain.from_iterable(parts)) == sorted(map(str, photos.iterdir())) and len(parts[0]) == COUNT // 3
    names = [Source("image", str(number), str(number)) for number in range(11)]
    assert sorted(chain(*(shard_of(names, (part, 4)) for part in range(1, 5))), key=names.index) == names
    for text in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(UsageError, match="no part"):
            parse_shard(text)
    assert detect(photos, "--model", model, "--shard", "1/2") == 2  # no folder that all write to


def test_classes_are_chosen_by_name_and_number(model: Path, photos: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--format", "json,yolo", "--classes"]
    for number, given in enumerate(("dog", "1", "dog, 1")):
        assert detect(photos / "00.png", *options, given, "--out", tmp_path / str(number)) == 0
        assert [one["name"] for one in entries(tmp_path / str(number))[0]["detections"]] == ["dog"]
    with pytest.raises(UsageError, match=r"no class 'dgo'\. Did you mean 'dog'"):
        selected_labels(["dgo"], ["cat", "dog"])
    assert selected_labels([3, "1"], []).tolist() == [1, 3]


def test_crops_are_the_pixels_of_the_boxes(model: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(200, 256, (64, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert detect(tmp_path / "a.png", "--model", model, "--out", tmp_path / "out", "--format", "json", "--crops") == 0
    ((box, name), *_) = [(one["box"], one["name"]) for one in entries(tmp_path / "out")[0]["detections"]]
    x1, y1, x2, y2 = map(round, box)
    cropped = cv2.imread(str(tmp_path / "out" / "crops" / name / "a-1.jpg"))
    assert cropped.shape == (y2 - y1, x2 - x1, 3)
    assert abs(cropped.mean() - image[y1:y2, x1:x2].mean()) < 3


def test_labels_can_be_hidden_and_lines_have_the_width_given(model: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((512, 512, 3), 230, np.uint8))
    drawn = []
    for number, options in enumerate(([], ["--hide-labels"], ["--hide-labels", "--line-width", "9"])):
        out = tmp_path / str(number)
        assert detect(tmp_path / "a.png", "--model", model, "--out", out, "--format", "images", *options) == 0
        drawn.append((np.abs(cv2.imread(str(out / "images" / "a.jpg")).astype(int) - 230).max(-1) > 60).sum())
    assert drawn[1] < drawn[0] and drawn[1] < drawn[2]


def test_letters_are_smaller_on_small_objects() -> None:
    image = np.full((1000, 1000, 3), 90, np.uint8)
    areas = []
    for side in (30.0, 400.0):
        box = np.array([[300, 300, 300 + side, 300 + side]])
        pair = [draw_detections(image, box, None, np.array([0]), ["cup"], text=text) for text in (True, False)]
        areas.append((pair[0] != pair[1]).any(-1).sum())
    assert areas[0] < 0.6 * areas[1]


def test_bgr_arrays_give_the_same_as_rgb(model: Path) -> None:
    detector = onelook.load(model)
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[..., 0] = 255
    swapped = np.ascontiguousarray(rgb[..., ::-1])
    plain, mirrored = detector.detect(rgb), detector.detect(swapped, bgr=True)
    assert np.array_equal(plain.scores, mirrored.scores) and np.array_equal(mirrored.image, rgb)
    assert [len(found) for found in detector.detect([swapped, swapped], bgr=True)] == [len(plain)] * 2
    assert np.array_equal(plain.plot(bgr=True), plain.plot()[..., ::-1])
    with pytest.raises(ImageError, match="alpha"):
        detector.detect(np.zeros((4, 4, 4), np.uint8), bgr=True)


def test_detections_become_a_polars_table() -> None:
    polars = pytest.importorskip("polars")
    found = Detections(np.eye(2, 4, dtype=np.float32), np.array([0.5, 0.4], np.float32), np.array([1, 0]), ("a", "b"))
    table = found.to_polars()
    assert table.columns == ["x1", "y1", "x2", "y2", "score", "label", "name"] and table["name"].to_list() == ["b", "a"]
    assert Detections.empty().to_polars().schema == table.schema
    assert table.schema["name"] == polars.String and table.schema["score"] == polars.Float32
