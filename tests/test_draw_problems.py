"""`onelook check --draw`: problems are placed on their images and objects, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import onelook
from data_sets import coco, png, put, voc, voc_object, voc_xml, yolo
from onelook.cli.app import run
from onelook.data import problem_places
from onelook.data.check import read_and_check
from onelook.data.problem_places import place_problems

SILENT = onelook.SilentReporter()
BAD_LABELS = "0 .5 .5 .25 .5\n1 0.25 0.25 0 0.1\n0 .5 .5 .25 .5\n1 .9 .9 .5 .5\n0 x\n"


def redness(image: np.ndarray) -> int:
    """How much red the reddest pixel of a BGR image has more than blue."""
    return int(np.max(image[:, :, 2].astype(int) - image[:, :, 0]))


def test_problems_of_label_files_are_placed_by_line(tmp_path: Path) -> None:
    report, read = read_and_check(yolo(tmp_path / "data", BAD_LABELS), reporter=SILENT)
    placed = place_problems(read, report.problems)
    names = {read[0].index.name(row): found for (_, row), found in placed.by_image.items()}
    assert set(names) == {"images/val/a.png", "images/val/b.png"} and not placed.others
    assert names["images/val/a.png"].things == {1, 2, 3}  # of the four that were read
    codes = [problem.code for problem in names["images/val/a.png"].problems]
    assert sorted(codes) == ["box-beyond-image", "box-degenerate", "box-duplicate", "field-count"]


def test_problems_of_one_file_for_all_images_are_placed_by_id(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in (1, 2)]
    entries = [
        {"id": 10 + n, "image_id": n, "category_id": 1, "bbox": box, "area": 9, "iscrowd": 0}
        for n, box in ((1, [1, 1, 9, 9]), (2, [60, 1, 30, 9]))
    ]
    bad = {"id": 30, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}
    content = {"images": images, "annotations": [*entries, bad], "categories": [{"id": 1, "name": "cat"}]}
    data = coco(tmp_path / "data", content)
    for image in images:
        put(data / "val2017" / str(image["file_name"]), png(64, 48, 9 * int(image["id"])))
    report, read = read_and_check(data, reporter=SILENT)
    placed = place_problems(read, report.problems)
    (place,) = placed.by_image
    assert read[0].index.name(place[1]) == "2.png" and placed.by_image[place].things == {1}
    assert [problem.annotation for problem in placed.others if problem.severity == "error"] == [30]


def test_problems_of_voc_files_are_placed_on_their_image(tmp_path: Path) -> None:
    data = voc(tmp_path / "data", voc_xml(voc_object(box=(2, 3, 12, 23)) + voc_object(box=(2, 3, 12, 23))))
    report, read = read_and_check(data, reporter=SILENT)
    placed = place_problems(read, [one for one in report.problems if one.code == "box-duplicate"])
    ((_, found),) = placed.by_image.items()
    assert [problem.code for problem in found.problems] == ["box-duplicate"] and len(found.things) == 1


def test_check_draws_problems_and_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = yolo(tmp_path / "data", BAD_LABELS), tmp_path / "drawn"
    assert run(["check", str(data), "--draw", str(out), "--json", str(tmp_path / "x.json")]) == 1
    printed = capsys.readouterr().out
    assert "drew 2 images with problems and 1 without" in printed and str(out) in printed
    summary = json.loads((tmp_path / "x.json").read_text())["summary"]["drawn"]
    assert summary == {"folder": str(out), "with_problems": 2, "without": 1, "left_out": 0}
    listed = (out / "problems.txt").read_text().splitlines()
    assert len(listed) == 5 and listed[0].endswith("[problems/val/000000-a.jpg]")
    drawn = cv2.imread(str(out / "problems/val/000000-a.jpg"))
    clean = cv2.imread(str(out / "sample/val/000002-c.jpg"))
    assert drawn.shape[1] > clean.shape[1]  # the margin for the box that reaches beyond the image
    assert drawn.shape[0] > clean.shape[0]  # what is wrong, below it
    assert redness(drawn[:, clean.shape[1] :]) > 60 > redness(clean)
    assert run(["check", str(data), "--draw", str(out)]) == 1 and "exists and is not empty" in capsys.readouterr().err
    assert run(["check", "--draw", str(out)]) == 2


def test_an_unreadable_image_is_listed_and_not_drawn(tmp_path: Path) -> None:
    data = coco(tmp_path / "data")
    (data / "val/a.png").write_bytes(b"no image")
    found = onelook.check(data, draw=tmp_path / "drawn", reporter=SILENT)
    assert found.summary["drawn"]["left_out"] == 1
    assert "a.png: " in (text := (tmp_path / "drawn/problems.txt").read_text()) and "[not drawn]" in text


def test_of_many_images_with_problems_every_kind_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.data.draw_problems.MOST_IMAGES", 2)
    data = yolo(tmp_path / "data")
    for number in range(4):
        put(data / f"images/val/many{number}.png", png(64, 48, number))
        put(data / f"labels/val/many{number}.txt", "0 .5 .5 0 .5\n" if number else "0 x\n")
    found = onelook.check(data, draw=tmp_path / "drawn", reporter=SILENT)
    assert found.summary["drawn"]["with_problems"] == 2 and found.summary["drawn"]["left_out"] >= 3


def test_a_line_of_one_label_file_is_not_looked_for_in_those_of_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = "0 0.5 0.5 0.4 0.4\n" * 2
    data = yolo(tmp_path / "data", twice)
    put(data / "labels" / "val" / "c.txt", twice)
    report, read = read_and_check(data, reporter=SILENT)
    doubled = [one for one in report.problems if one.code == "box-duplicate"]
    monkeypatch.setattr(problem_places, "_equal", lambda known, value: pytest.fail("all lines of the split are used"))
    found = place_problems(read, doubled).by_image
    assert len(found) == len(doubled) == 2
    for (number, row), one in found.items():
        assert one.things == {int(read[number].index.object_offsets[row]) + 1}
