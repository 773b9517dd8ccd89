"""`onelook roadmap` on a small made-up data set: runs, tables, going on after a kill, and mistakes."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file

import onelook
from class_sets import write_class_folders
from data_sets import without_objects
from onelook.cli.app import run
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.networks.build import build
from onelook.recipes import find_recipe
from onelook.recipes.roadmaps import PublishedNumbers
from onelook.report.roadmap import MeasuredRow, RoadmapTable
from onelook.training import run as training_run
from onelook.weights import save_weights

SMALL: tuple[str, ...] = (
    *("--scale", "depth=0.1,width=0.0625", "--size", "64", "--batch", "4", "--epochs", "1", "--workers", "0"),
    *("--device", "cpu", "multiscale=none"),
)
ROWS = ("--rows", "simota,multi-positives")
DASH, SIGN = "\N{EN DASH}", "\N{PLUS-MINUS SIGN}"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64)), {"train": 8, "val": 2})


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("classes"), {"train": 8, "val": 2}, size=72)


def roadmap(*arguments: str) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(["roadmap", *arguments])
    finally:
        torch.set_num_threads(threads)


def numbers(folder: Path) -> list[dict[str, str]]:
    """The table without what a clock says."""
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    return [{name: value for name, value in row.items() if name not in ("latency", "seconds")} for row in rows]


class Killed(BaseException):
    """As a kill: nothing catches it."""


def test_a_killed_roadmap_goes_on_at_its_row_and_ends_with_the_same_table(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("yolox-table2", str(scenes), *ROWS, *SMALL, "--out")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert roadmap(*command, str(whole)) == 0

    saved = training_run.save_checkpoint
    left = 3  # of the two states of each row, the last is not written

    def save(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        saved(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training_run, "save_checkpoint", save)
    with pytest.raises(Killed):
        roadmap(*command, str(broken))
    monkeypatch.undo()
    assert (broken / "multi-positives" / "seed-0" / "result.json").is_file()
    assert (broken / "simota" / "seed-0" / "state.pt").is_file()
    assert not (broken / "simota" / "seed-0" / "result.json").exists()
    first = (broken / "multi-positives" / "seed-0" / "last.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert roadmap(*command, str(broken)) == 0
    assert "multi-positives" not in capsys.readouterr().err
    assert (broken / "multi-positives" / "seed-0" / "last.safetensors").stat().st_mtime_ns == first
    assert numbers(broken) == numbers(whole)
    assert [row["key"] for row in numbers(whole)] == ["multi-positives", "simota"]
    for row in ("multi-positives", "simota"):
        one, other = (load_file(folder / row / "seed-0" / "last.safetensors") for folder in (whole, broken))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_roadmap_is_refused_where_validation_cannot_tell_its_rows_apart(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = without_objects(scenes, tmp_path / "empty")
    assert roadmap("yolox-table2", str(empty), *ROWS, *SMALL, "--out", str(tmp_path / "out")) == 1
    assert "has no objects: AP, which a roadmap compares, is undefined on it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_seeds_are_trained_apart_and_the_table_is_written_in_every_form(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "table.json"
    arguments = ("--rows", "7", "--seeds", "2", *SMALL, "--out", str(out), "--json", str(report))
    assert roadmap("yolox-table2", str(scenes), *arguments) == 0
    (row,) = json.loads(report.read_text())["rows"]
    assert set(row["ap_by_seed"]) == {"0", "1"} and row["spread"] is not None and row["latency"] > 0
    assert row["published"]["ap"] == 46.5 and row["gain"] is None
    recipes = [(out / "nms-free" / f"seed-{seed}" / "recipe.yaml").read_text() for seed in (0, 1)]
    assert recipes[0] != recipes[1] and recipes[0] == recipes[1].replace("seed: 1", "seed: 0")
    assert "+NMS free" in (out / "table.md").read_text() and "46.5" in (out / "table.html").read_text()
    assert (out / "chart.svg").read_text().startswith("<svg") and cv2.imread(str(out / "chart.png")) is not None
    # The same folder is not for another roadmap, and its runs are not for another recipe.
    assert roadmap("yolox-table1", str(scenes), *SMALL, "--out", str(out)) == 1
    # What another computer measured is not told as this one's.
    cost = out / "latency.json"
    before = cost.read_text()
    assert roadmap("yolox-table2", str(scenes), "--rows", "nms-free", *SMALL, "--out", str(out)) == 0
    assert cost.read_text() == before
    cost.write_text('{"milliseconds": {"nms-free": -1.0}, "device": "another"}')
    assert roadmap("yolox-table2", str(scenes), "--rows", "nms-free", *SMALL, "--out", str(out)) == 0
    assert (
        json.loads(cost.read_text())["milliseconds"]["nms-free"] > 0 and "-1.0" not in (out / "table.csv").read_text()
    )
    assert roadmap("yolox-table2", str(scenes), "--rows", "nms-free", *SMALL, "ema=none", "--out", str(out)) == 1
    for damaged in (cost, out / "nms-free" / "seed-0" / "result.json", out / "roadmap.json"):
        whole, _ = damaged.read_text(), capsys.readouterr()
        damaged.write_text(whole[:-4])
        assert roadmap("yolox-table2", str(scenes), "--rows", "nms-free", *SMALL, "--out", str(out)) == 1
        error = capsys.readouterr().err
        assert f"'{damaged}' is damaged" in error and "Delete it" in error and "fault" not in error
        damaged.write_text(whole)
    assert "depth times 0.1, width times 0.0625, multiscale=none" in (out / "table.md").read_text()


CLASSIFIERS = (*("--scale", "depth=0.1,width=0.125", "--size", "64", "--batch", "8", "--epochs", "1"), *SMALL[-5:-1])


def test_rows_that_are_classifiers_are_measured_by_top_1_and_top_5(classes: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "table.json"
    arguments = (*CLASSIFIERS, "--out", str(out), "--json", str(report))
    assert roadmap("yolov4-table3", str(classes), *arguments) == 0
    found = json.loads(report.read_text())
    assert [row["key"] for row in found["rows"]] == ["baseline", "bof", "bof-mish"]
    for row in found["rows"]:
        assert 0 <= row["top1"] <= row["top5"] <= 100 and row["top1_by_seed"] == {"0": row["top1"]}
        assert row["latency"] > 0 and row["gflops"] > 0 and "ap" not in row
    assert (out / "table.md").read_text().startswith("| row | top-1 | paper | gain | paper | top-5 | paper |")
    assert list(numbers(out)[0])[:4] == ["key", "name", "top1", "spread"]
    assert "top-1" in (out / "chart.svg").read_text()


def test_what_else_of_ap_the_paper_prints_stands_in_a_second_table() -> None:
    table = onelook.roadmap("yolov7-table4")
    base = table.rows[0]
    measured = replace(base, results={"AP": {0: 10.0, 1: 12.0}, "AP50": {0: 20.0, 1: 21.0}, "APs": {}})
    whole = replace(table, rows=(measured,), printed=None)
    assert table.more_measures == () and whole.more_measures == ("AP50", "AP75", "APs", "APm", "APl")
    assert whole.more_cells(measured)[:6] == (
        base.name,
        "20.5 ± 0.7",
        "70.41",
        *("\N{EN DASH}", "56.77", "\N{EN DASH}"),
    )
    assert "| 20.5 ± 0.7 | 70.41 |" in whole.markdown() and "<td>70.41</td>" in whole.html()
    (row,) = csv.DictReader(io.StringIO(whole.csv()))
    assert (row["ap50"], row["paper_ap50"], row["ap_small"], row["paper_ap_small"]) == ("20.5", "70.41", "", "35.81")
    assert whole.to_dict()["rows"][0]["ap50_by_seed"] == {"0": 20.0, "1": 21.0}


def test_backbones_are_trained_as_classifiers_before_their_detectors(
    scenes: Path, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("yolov4-table6", str(scenes), "--rows", "darknet-bof", *CLASSIFIERS, "multiscale=none")
    before = ("pretraining.epochs=1", "pretraining.size=(64, 64)")
    out = tmp_path / "out"
    assert roadmap(*command, "--out", str(out)) == 2
    assert "class_folders" in capsys.readouterr().err
    whole = (*command, *before, "--class-folders", str(classes), "--seeds", "2", "--out", str(out))
    assert roadmap(*whole) == 0
    assert "the backbone" in capsys.readouterr().err
    row = out / "darknet-bof"
    classifier = load_file(row / "backbone" / "last.safetensors")
    assert classifier["classes.weight"].shape[0] == 3
    assert find_recipe(row / "backbone").batch_size == 16  # of the published 128, as everywhere on a CPU
    recipe = (row / "seed-0" / "recipe.yaml").read_text()
    assert "pretraining" in recipe and (row / "seed-1" / "result.json").is_file()
    assert "backbones trained on" in (out / "table.md").read_text()
    # Rows that began with other images, or were judged by others, would not be comparable.
    other = write_class_folders(tmp_path / "other", {"train": 8, "val": 2}, size=72)
    assert roadmap(*command, *before, "--class-folders", str(other), "--seeds", "2", "--out", str(out)) == 1
    assert "holds another roadmap" in capsys.readouterr().err
    assert roadmap(*whole, "--val-split", "train") == 1
    assert "holds another roadmap" in capsys.readouterr().err
    # The row as a training of its own says what it begins with.
    single = ["train", str(scenes), "--recipe", "yolov4-table6:darknet-bof", "--out", str(tmp_path / "single")]
    assert run([*single, "--device", "cpu"]) == 2
    assert "weights" in capsys.readouterr().err


def test_rows_with_distillation_learn_from_one_teacher(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teachers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        teachers.append(str(save_weights(build("damo-yolo-ns", 3), tmp_path / f"{seed}.safetensors")))
    settings = ("--scale", "depth=0.34,width=0.125", *SMALL[2:])
    command = ("damo-yolo-table7", str(scenes), "--rows", "student,cwd", *settings, "--out", str(tmp_path / "out"))
    assert roadmap(*command) == 2
    assert "Give a teacher" in capsys.readouterr().err
    assert roadmap(*command, "--teacher", teachers[0]) == 0
    student, taught = (tmp_path / "out" / key / "seed-0" for key in ("student", "cwd"))
    assert "loss/distillation" in (taught / "metrics.csv").read_text()
    assert "loss/distillation" not in (student / "metrics.csv").read_text()
    assert roadmap(*command, "--teacher", teachers[1]) == 1
    assert "another teacher" in " ".join(capsys.readouterr().err.split())
    assert roadmap(*command, "--teacher", teachers[0]) == 0


MISTAKES = [
    (["yolox-table3", "DATA"], 1, "nothing to train"),
    (["yolox-tabel2"], 1, "yolox-table2"),
    (["yolox-table2", "DATA", "--rows", "simotta"], 1, "simota"),
    (["yolox-table2", "DATA", "--rows", ","], 2, "names no row"),
    (["yolox-table2", "DATA", "--scale", "width"], 2, "name=factor"),
    (["yolox-table2", "DATA", "--scale", "wide=0.5"], 1, "width"),
    (["yolox-table2", "DATA", "--scale", "head=0.5"], 2, "no factor"),
    (["damo-yolo-table2", "DATA", "--scale", "size=0.5"], 2, "no factor"),
    (["yolox-table2", "DATA", "--seeds", "0"], 2, "seeds is 0"),
    (["yolox-table2", "DATA", "loss.assigner.cells=5"], 2, "anchor-free"),
    (["yolox-table2", "DATA", "--size", "65"], 2, "multiple of 32"),
    (["yolox-table2", "nowhere"], 1, "nowhere"),
    (["yolox-table2", "DATA", "--class-folders", "nowhere"], 2, "Leave class_folders away"),
    (["yolox-table2", "CLASSES"], 1, "no boxes"),
    (["yolov4-table2", "DATA"], 1, "has boxes"),
    (["yolov4-table6", "DATA", "--class-folders", "DATA"], 1, "has boxes"),
    (["yolox-table2", "DATA", "--val-split", "none"], 1, "evaluate"),
]


def test_mistakes_get_one_message(
    scenes: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, code, said in MISTAKES:
        places = {"DATA": str(scenes), "CLASSES": str(classes)}
        assert roadmap(*(places.get(one, one) for one in arguments)) == code, arguments
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_without_data_the_rows_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert roadmap() == 0
    assert "yolox-table2" in capsys.readouterr().out
    assert roadmap("yolox-table2", "--rows", "1,2") == 0
    shown = capsys.readouterr().out
    assert "model.head='decoupled'" in shown and "63.86" in shown and "186.0" in shown and "SimOTA" not in shown


def test_scaled_rows_cost_less_in_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    scales = {
        "yolox-table1": "depth=0.33,width=0.125",
        "yolov4-table5": "depth=0.33,width=0.125",
        "yolov4-table2": "width=0.125",
        "yolov4-table6": "width=0.125",
        "yolov7-table4": "width_multiple=0.25",
        "damo-yolo-table5": "depth=0.34,width=0.25",
    }
    for name, scale in scales.items():
        found = []
        for factors in ([], ["--scale", scale]):
            assert roadmap(name, "--rows", "1", *factors, "--json", "-") == 0
            found.append(json.loads(capsys.readouterr().out)["rows"][0])
        assert found[1]["parameters"] < 0.2 * found[0]["parameters"], name
        assert found[1]["gflops"] < 0.2 * found[0]["gflops"], name


def table(*aps: dict[int, float]) -> RoadmapTable:
    rows = [
        MeasuredRow(
            str(index),
            f"row | {index}",
            None if index == 0 else str(index - 1),
            ("a=1",),
            {"AP": found} if found else {},
            1.5,
            20.0,
            3.5 + index,
            PublishedNumbers(40.0 + index, 1.5),
        )
        for index, found in enumerate(aps)
    ]
    return RoadmapTable("name", "title", "source", rows)


def test_mean_spread_and_gain_are_those_of_the_seeds() -> None:
    found = table({0: 10.0, 1: 12.0}, {0: 13.0, 1: 17.0})
    assert (found.rows[1].mean("AP"), found.rows[0].spread("AP")) == (15.0, pytest.approx(2**0.5))
    assert found.gain(found.rows[1]) == (4.0, 1.0)
    assert found.gain(found.rows[0]) == (None, None)
    assert table({0: 10.0}).rows[0].spread("AP") is None
    lines = found.markdown().splitlines()
    cells = lines[3].strip("| ").split(" | ")
    assert cells[:9] == ["row / 1", f"15.0 {SIGN} 2.8", "41.0", "+4.0", "+1.0", "1.50", "1.50", "20.0", DASH]
    assert {line.count("|") for line in lines[:4]} == {lines[0].count("|")}
    assert found.svg().count("<circle") == 2


@pytest.mark.slow
def test_sigkill_in_a_row_leaves_a_roadmap_that_goes_on(scenes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onelook", "roadmap", "yolox-table2", str(scenes), *ROWS, *SMALL, "--out"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (broken / "simota" / "seed-0" / "state.pt").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "table.csv").exists()
    subprocess.run([*command, str(broken)], check=True, capture_output=True)
    assert numbers(broken) == numbers(whole)
