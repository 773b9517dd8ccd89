"""`onelook check` finds every planted fault, by code and place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import data_sets as make
from data_sets import changed, put, voc_object, voc_xml
from onelook.cli.app import run
from onelook.data.check import check
from onelook.data.check_images import look_at_all
from shared import data, needs_shared


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def codes(result):
    return {problem.code for problem in result.problems}


def only(result, code):
    (problem,) = [problem for problem in result.problems if problem.code == code]
    assert problem.message and problem.remedy
    return problem


COCO = {
    "box-degenerate": ({"annotations_0": {"bbox": [1, 2, 0, 5]}}, "warning", 11),
    "box-outside": ({"annotations_0": {"bbox": [100, 2, 5, 5]}}, "warning", 11),
    "box-beyond-image": ({"annotations_0": {"bbox": [60, 2, 25, 5]}}, "warning", 11),
    "box-duplicate": ({"annotations_0": {"image_id": 7, "bbox": [5, 6, 7, 8]}}, "warning", 10),
    "box-negative": ({"annotations_0": {"bbox": [1, 2, -3, 5]}}, "error", 11),
    "box-format": ({"annotations_0": {"bbox": "1 2 3 4"}}, "error", 11),
    "unknown-image": ({"annotations_0": {"image_id": 99}}, "error", 11),
    "unknown-category": ({"annotations_0": {"category_id": 99}}, "error", 11),
    "duplicate-annotation-id": ({"annotations_0": {"id": 10}}, "error", 10),
    "image-size-mismatch": ({"images_0": {"width": 63}}, "error", None),
    "file-name": ({"images_0": {"file_name": "../a.png"}}, "error", None),
    "image-missing": ({"images_0": {"file_name": "x.png"}}, "error", None),
    "class-without-boxes": ({"categories": [*make.COCO["categories"], {"id": 5, "name": "ant"}]}, "warning", None),
}


@pytest.mark.parametrize("code", COCO)
def test_faults_of_coco_are_found_by_code_and_annotation(tmp_path, code):
    change, severity, annotation = COCO[code]
    result = check(make.coco(tmp_path, changed(**change)))
    problem = only(result, code)
    assert (problem.severity, problem.annotation) == (severity, annotation)
    assert problem.file.endswith("instances_val.json") and result.exit_code == (severity == "error")


def test_a_sound_data_set_has_no_problems(tmp_path):
    assert check(make.coco(tmp_path)).problems == []


def test_all_problems_are_listed_not_the_first(tmp_path):
    result = check(make.yolo(tmp_path, "0 .5 .5\n7 .5 .5 .1 .1\n0 nan 0 0 0\n0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n"))
    found = {(problem.code, problem.line) for problem in result.problems if problem.file.endswith("a.txt")}
    assert found >= {("field-count", 1), ("unknown-category", 2), ("not-a-number", 3), ("box-duplicate", 5)}
    assert result.summary["errors"] == 3


def test_faults_of_yolo_files(tmp_path):
    root = make.yolo(tmp_path)
    put(root / "labels/val/zzz.txt", "0 .5 .5 .1 .1")
    put(root / "images/val/c.png", b"nothing")
    result = check(root)
    assert only(result, "label-without-image").file.endswith("zzz.txt")
    assert only(result, "image-without-labels").file.endswith("b.txt")
    assert only(result, "image-unreadable").file.endswith("c.png")


def test_faults_of_voc_files(tmp_path):
    root = make.voc(tmp_path, voc_xml(voc_object(box=(5, 5, 5, 9)) + voc_object("cat", box=(9, 9, 3, 3))))
    put(root / "Annotations/spare.xml", voc_xml())
    put(root / "ImageSets/Main/val.txt", "a\nb\nc\nmissing\n")
    put(root / "Annotations/missing.xml", voc_xml(voc_object()).replace("a.png", "missing.png"))
    result = check(root)
    assert (only(result, "box-degenerate").line, only(result, "box-negative").line) == (4, 8)
    assert only(result, "annotation-not-listed").file.endswith("spare.xml")
    assert only(result, "image-missing").file.endswith("missing.xml")


def test_an_image_cut_short_is_found_unless_quick(tmp_path):
    root = make.coco(tmp_path)
    content = make.png()
    put(root / "val/a.png", content[: len(content) // 2])
    assert "image-unreadable" in codes(check(root)) and "image-unreadable" not in codes(check(root, quick=True))


def test_an_unreadable_file_does_not_end_the_check(tmp_path):
    make.coco(tmp_path, "{", split="train")
    result = check(make.coco(tmp_path))
    problem = only(result, "unreadable")
    assert problem.file.endswith("instances_train.json") and problem.line == 1 and "val" in result.summary["splits"]


def test_the_same_image_in_two_splits(tmp_path):
    result = check(make.coco(make.coco(tmp_path, split="train")))
    assert sum(problem.code == "image-in-two-splits" for problem in result.problems) == 3


def test_splits_with_other_classes(tmp_path):
    make.coco(tmp_path, split="train")
    result = check(make.coco(tmp_path, changed(categories_0={"name": "wolf"})))
    assert only(result, "class-lists-differ").severity == "error"


def many_boxes(boxes):
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}]
    entries = [{"id": i + 1, "image_id": 1, "category_id": 2, "bbox": box} for i, box in enumerate(boxes.tolist())]
    return changed(images=images, annotations=entries)


def test_units_that_are_not_the_formats(tmp_path):
    rng = np.random.default_rng(0)
    start = rng.random((50, 2)) * (40, 30)
    corners = np.concatenate([start, start + 2 + rng.random((50, 2)) * (20, 14)], axis=1)
    corners = np.concatenate([corners, corners[:20] * 0 + (50, 40, 62, 47)])
    assert "fit as [x1, y1, x2, y2]" in only(check(make.coco(tmp_path / "1", many_boxes(corners))), "box-units").message
    fractions = rng.random((50, 4)) * 0.5
    assert "fractions" in only(check(make.coco(tmp_path / "2", many_boxes(fractions))), "box-units").message
    pixels = check(make.yolo(tmp_path / "3", "0 32 24 10 10\n" * 5))
    assert "pixels" in next(p for p in pixels.problems if p.code == "not-normalised").message


def test_classes_out_of_balance(tmp_path):
    boxes = np.tile([1.0, 2, 3, 4], (300, 1)) + np.arange(300)[:, None] * 0.01
    content = many_boxes(boxes)
    content["annotations"][0]["category_id"] = 90
    assert "class-imbalance" in codes(check(make.coco(tmp_path, content, split="train")))


def test_the_command_writes_the_promised_json(tmp_path, capsys):
    root = make.yolo(tmp_path / "data", "0 .5 .5\n")
    assert run(["check", str(root), "--json", str(tmp_path / "out.json")]) == 1
    written = json.loads((tmp_path / "out.json").read_text())
    entry = next(problem for problem in written["problems"] if problem["code"] == "field-count")
    assert set(entry) == {"severity", "code", "file", "line", "annotation", "message", "remedy"}
    assert entry["line"] == 1 and written["summary"]["errors"] == 2
    assert "field-count" in capsys.readouterr().out


def test_without_data_the_installation_is_described(capsys):
    assert run(["check", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["packages"]["numpy"] and summary["system"]["cpus"] >= 1


@needs_shared
def test_the_real_sample_is_sound_and_the_known_faults_of_bccd_are_found():
    assert check(data("coco_mini"), quick=True).exit_code == 0
    result = check(data("bccd"), quick=True)
    assert result.exit_code == 0
    left_out = [problem for problem in result.problems if problem.code == "box-degenerate"]
    assert [problem.severity for problem in left_out] == ["warning"] * 2
    assert all("training and val leave it out" in problem.message for problem in left_out)


def test_a_damaged_voc_file_is_named_once_with_its_line(tmp_path: Path) -> None:
    problems = check(make.voc(tmp_path / "data", "<annotation>\n<filename>a.jpg<")).problems
    (damaged,) = [problem for problem in problems if problem.code == "xml-unreadable"]
    assert damaged.line == 2
    assert damaged.message.startswith("not valid XML")


def test_progress_ends_at_the_number_of_images(tmp_path):
    paths = [put(tmp_path / f"{number}.png", b"") for number in range(65)]
    steps: list[tuple[int, int]] = []
    look_at_all(paths, lambda done, total: steps.append((done, total)), quick=True)
    assert steps == [(64, 65), (65, 65)]
