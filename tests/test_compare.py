"""`onelook compare` from the command line to its files, with small exported files and detectors in memory."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onelook
from data_sets import put
from onelook.api import comparing
from onelook.api.alternation import alternate
from onelook.api.bench import describe_runtime
from onelook.api.candidates import named_candidates
from onelook.cli.app import run
from onelook.cli.output import plain_json
from onelook.errors import UsageError, UserError
from onelook.report.charts import Point, point_colours, scatter_chart, scatter_limits
from onelook.report.comparison import Comparison, PublishedFigures
from onelook.report.comparison_page import render_comparison
from onelook.reporter import SilentReporter

pytest.importorskip("onnx")
from onnx_models import BOXES, describe, write_model

IMAGES = 24


@pytest.fixture(autouse=True, scope="module")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def write_data(root: Path, images: int = IMAGES, *, objects: bool = True) -> Path:
    """Images of 64 x 64 pixels, in which the small model finds a cat (bright images first) and a dog exactly."""
    (cat, dog), kinds = BOXES[0], ("cat", "dog")
    files, annotations = [], []
    for number in range(images):
        (root / "val").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "val" / f"{number:02}.png"), np.full((64, 64, 3), 120 + 5 * (number % 24), np.uint8))
        files.append({"id": number + 1, "file_name": f"{number:02}.png", "height": 64, "width": 64})
        for label, (x1, y1, x2, y2) in enumerate((cat, dog)):
            if objects and (number + label) % 3:
                box = [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
                entry = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": label + 1, "bbox": box}
                annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(kinds)]
    content = {"images": files, "annotations": annotations, "categories": categories}
    put(root / "annotations" / "instances_val.json", json.dumps(content))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a good model, the same one in another file, and one that takes cats for dogs."""
    root = tmp_path_factory.mktemp("compare")
    write_data(root / "data")
    write_model(root / "good.onnx")
    write_model(root / "copy.onnx", metadata=json.dumps(describe(version="0.0.9")))
    write_model(root / "bad.onnx", metadata=json.dumps(describe(names=["dog", "cat"])))
    return root


def compared(place: Path, *names: str, **options: Any) -> Comparison:
    given: dict[str, Any] = {"runs": 3, "batch": 4, "resamples": 100, "memory": False, "reporter": SilentReporter()}
    return onelook.compare([place / name for name in names], place / "data", **(given | options))


def test_a_better_model_is_found_better_and_an_equal_one_is_not(place: Path) -> None:
    found = compared(place, "bad.onnx", "good.onnx", "copy.onnx", resamples=300)
    bad, good, copy = found.models
    assert bad.stats["AP"] < 0.1 < good.stats["AP"] == copy.stats["AP"]
    to_good, to_copy, same = found.pairs
    assert to_good.ap is not None and to_good.ap.is_significant and to_copy.ap is not None
    assert same.ap is not None and (same.ap.value, same.ap.low, same.ap.high, same.ap.p) == (0, 0, 0, 1)
    assert to_good.sentence(3).startswith("good is better than bad: +0.")
    assert "among 3 comparisons" in to_good.sentence(3) and "among" not in to_good.sentence()
    assert same.sentence().startswith("No difference can be told between copy and good: +0.000 AP")
    assert found.sentences()[0] in str(found)


def test_numbers_are_those_of_the_other_commands(place: Path) -> None:
    found = compared(place, "good.onnx", "bad.onnx")
    alone = onelook.validate(place / "good.onnx", place / "data", reporter=SilentReporter())
    model = found.models[0]
    assert model.stats == alone.stats
    assert model.interval is not None and model.interval[0] <= model.interval[1]
    assert set(model.per_class) == {"cat", "dog"} and {"AP", "AP50", "APs"} <= set(model.per_class["cat"])
    assert model.file_bytes == (place / "good.onnx").stat().st_size
    assert model.variant == "yolox-nano" and model.parameters is None  # the file describes no network
    assert set(model.milliseconds) == {"mean", "p50", "p90", "p99"} and model.images_per_second > 0
    assert found.images == IMAGES and found.objects == alone.objects.sum()
    assert model.published is None  # cats and dogs are not COCO's 80 classes


def test_too_few_resamples_for_so_many_comparisons_are_said(place: Path) -> None:
    found = compared(place, "bad.onnx", "good.onnx", "copy.onnx", resamples=100)
    assert not any(pair.ap is not None and pair.ap.is_significant for pair in found.pairs)
    assert any("100 resamples are too few for 3 comparisons" in note and "300" in note for note in found.notes)


class Page(HTMLParser):
    """The text of a page, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command_writes_everything_and_continues(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, report = tmp_path / "out", tmp_path / "all.json"
    arguments = ["compare", str(place / "data"), str(place / "good.onnx"), f"wrong <one>={place / 'bad.onnx'}"]
    arguments += ["--runs", "3", "--batch", "4", "--out", str(out), "--json", str(report)]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    for words in ("wrong <one> is worse than good: -", "p99", "memory MB", "24 images are few", "compare.html"):
        assert words in shown
    page = Page()
    page.feed((out / "compare.html").read_text())
    assert page.tags.count("svg") == 4 and not {"script", "link", "img"} & set(page.tags)
    for words in ("wrong <one> is worse than good", "AP of classes", "wrong class", "medium", "cat", "alternation"):
        assert words in page.text
    written = json.loads((out / "compare.json").read_text())
    assert written == json.loads(report.read_text())
    assert [model["name"] for model in written["models"]] == ["good", "wrong <one>"]
    assert written["models"][0]["memory"]["process"] > 10 * 2**20
    with (out / "models.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["AP"]) == written["models"][0]["stats"]["AP"] and rows[1]["published_AP"] == ""
    with (out / "differences.csv").open(newline="") as file:
        (pair,) = csv.DictReader(file)
    assert float(pair["AP_value"]) == written["pairs"][0]["ap"]["value"]
    for name in ("evaluate", "alternate", "measure_memory"):  # all is kept: nothing is measured again
        monkeypatch.delattr(comparing, name)
    assert run(arguments) == 0
    assert json.loads((out / "compare.json").read_text()) == written


def test_what_is_to_be_known_of_the_data_is_said_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = write_data(tmp_path / "data") / "annotations" / "instances_val.json"
    content = json.loads(annotations.read_text())
    content["categories"].append({"id": 7, "name": "cat"})
    annotations.write_text(json.dumps(content))
    said = "the unused category [7] with the repeated name 'cat' is left out"
    models = [str(place / "good.onnx"), str(place / "bad.onnx")]
    assert run(["val", str(tmp_path / "data"), "--model", models[0]]) == 0
    assert capsys.readouterr().out.count(said) == 1
    assert run(["compare", str(tmp_path / "data"), *models, "--runs", "3", "--out", str(tmp_path / "out")]) == 0
    assert " ".join(capsys.readouterr().out.split()).count(said) == 1
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["notes"][0] == said
    page = Page()
    page.feed((tmp_path / "out" / "compare.html").read_text())
    assert page.text.count(said) == 1


def test_the_plain_form_is_json_and_back(place: Path) -> None:
    plain = plain_json(compared(place, "good.onnx", "bad.onnx").to_dict())
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["pairs"][0]["sentence"].startswith("bad is worse than good")


def test_ctrl_c_keeps_the_models_that_are_evaluated(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, real = [], comparing.evaluate

    def stopped(runtime: Any, *arguments: Any, **options: Any) -> Any:
        evaluated.append(runtime.path)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return real(runtime, *arguments, **options)

    monkeypatch.setattr(comparing, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        compared(place, "good.onnx", "bad.onnx", out=tmp_path)
    compared(place, "good.onnx", "bad.onnx", out=tmp_path)
    assert [Path(path).stem for path in evaluated] == ["good", "bad", "bad"]


def test_models_take_turns_and_each_is_first_as_often() -> None:
    calls: list[str] = []
    runs: dict[str, Callable[[], object]] = {name: lambda name=name: calls.append(name) for name in "abc"}  # type: ignore[misc]
    found = alternate(runs, 2, warm_up=1, timed=2, untimed=1)
    assert "".join(calls) == "aaabbbccc" + "bbbcccaaa" + "cccaaabbb"
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 4, "b": 4, "c": 4}


def test_detectors_in_memory_are_compared_with_files(place: Path) -> None:
    pytest.importorskip("torch")
    detector = onelook.build("yolox-nano", classes=2)
    detector.class_names = ("cat", "dog")
    loaded = onelook.load(detector, size=64, device="cpu")
    given = {"new": loaded, "good": place / "good.onnx"}
    found = onelook.compare(given, place / "data", runs=1, batch=2, resamples=100, reporter=SilentReporter())
    new = found.models[0]
    assert new.parameters and new.gflops and new.runtime.startswith("PyTorch") and new.file_bytes is None
    assert new.memory == {} and any("in memory" in note for note in new.notes)
    assert describe_runtime(loaded.runtime)["precision"] == "float32"


def test_published_figures_are_rings_at_the_measured_time(place: Path) -> None:
    from dataclasses import replace

    found = compared(place, "good.onnx", "bad.onnx")
    rows = ({"source": "YOLOX, table 4", "setting": "COCO val", "cells": {"Model": "Nano", "AP": "25.3"}},)
    published = PublishedFigures(0.258, "val2017", rows)
    page = render_comparison(replace(found, models=(replace(found.models[0], published=published), found.models[1])))
    assert page.count('fill="#ffffff" stroke="#2563a8"') == 1
    assert "published AP" in page and "YOLOX, table 4" in page and "AP 25.8" in page
    points = [Point("a", 1, 0.3, (0.1, 0.2)), Point("published", 1, 0.9, hollow=True), Point("b", 2, 0.5)]
    first, second, third = point_colours(points)
    assert first == second != third
    assert scatter_limits(points)[1][0] <= 0.2 and scatter_chart(points, "x", "y").count("<circle") == 3


def test_figures_of_the_papers_are_of_their_classes_and_size_only() -> None:
    pytest.importorskip("torch")
    from onelook.api.model_facts import published_figures
    from onelook.networks.coco_names import COCO_CLASSES

    known = published_figures("yolox-nano", (416, 416), COCO_CLASSES, COCO_CLASSES)
    assert known is not None and known.ap == pytest.approx(0.258) and known.rows
    assert published_figures("yolox-nano", (320, 320), COCO_CLASSES, COCO_CLASSES) is None
    assert published_figures("yolox-nano", (416, 416), COCO_CLASSES, ("cat", "dog")) is None
    assert published_figures("", (416, 416), COCO_CLASSES, COCO_CLASSES) is None


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["good.onnx"], {}, "needs two models: only one model is given"),
        ([], {}, "no model is given"),
        (["good.onnx", "good.onnx"], {}, "Two models have the name"),
        (["good.onnx", "none.onnx"], {}, "does not exist"),
        (["good.onnx", "bad.onnx"], {"runs": 0}, "runs is 0"),
        (["good.onnx", "bad.onnx"], {"resamples": 10}, "resamples is 10"),
        (["good.onnx", "bad.onnx"], {"batch": 0}, "batch is 0"),
        (["good.onnx", "bad.onnx"], {"size": 32}, "was exported for 64 x 64"),
        (["good.onnx", "bad.onnx"], {"split": "test"}, "test"),
    ],
)
def test_mistakes_are_said(place: Path, names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compared(place, *names, **options)


def test_exported_files_are_compared_without_pytorch(place: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from onelook.cli.app import run; sys.exit(run(sys.argv[1:]))"
    arguments = [str(place / "data"), str(place / "good.onnx"), str(place / "bad.onnx"), "--out", str(tmp_path)]
    arguments += ["--runs", "1", "--batch", "2", "--resamples", "100", "--without-memory"]
    command = [sys.executable, "-c", program, "compare", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "bad is worse than good" in ended.stdout and (tmp_path / "compare.html").is_file()


def test_a_model_under_two_names_is_refused(place: Path) -> None:
    good = place / "good.onnx"
    with pytest.raises(UsageError, match="'a' and 'b' are the same model"):
        onelook.compare([f"a={good}", f"b={good}"], place / "data", reporter=SilentReporter())


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["r1", "r1.onnx"], ["r1", "r1.onnx"]),
        (["r1", "r2.onnx"], ["r1", "r2"]),
        (["a/r1.onnx", "b/r1.onnx", "r1"], ["a/r1.onnx", "b/r1.onnx", "r1"]),
        (["a/weights/best.pt", "b/weights/best.pt"], ["a/weights/best.pt", "b/weights/best.pt"]),
        (["r1=r1", "r1.onnx"], ["r1", "r1.onnx"]),
    ],
)
def test_names_are_as_short_as_they_can_be(
    given: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r1").mkdir()
    assert [one.name.replace(os.sep, "/") for one in named_candidates(given)] == names


def test_data_that_tells_nothing_is_refused(place: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "few", 9)
    write_data(tmp_path / "empty", 12, objects=False)
    models = [place / "good.onnx", place / "bad.onnx"]
    with pytest.raises(UserError, match="9 images, too few to tell models apart"):
        onelook.compare(models, tmp_path / "few", reporter=SilentReporter())
    with pytest.raises(UserError, match="no objects"):
        onelook.compare(models, tmp_path / "empty", reporter=SilentReporter())


def test_a_folder_with_a_comparison_on_other_data_is_kept(place: Path, tmp_path: Path) -> None:
    compared(place, "good.onnx", "bad.onnx", out=tmp_path / "out")
    write_data(tmp_path / "data", 11)
    models = [place / "good.onnx", place / "bad.onnx"]
    with pytest.raises(UserError, match="holds a comparison on other data"):
        onelook.compare(models, tmp_path / "data", out=tmp_path / "out", reporter=SilentReporter())
