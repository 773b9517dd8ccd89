"""`onelook train --drop-suspicious`: which images are left out, the list of them, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onelook
from data_sets import png, put
from onelook.api.suspicious import check_option, find_suspicious, read_suspicious
from onelook.cli.app import run
from onelook.errors import DataError, UsageError, UserError

SILENT = onelook.SilentReporter()
SMALL = ("--model", "yolox-nano", "--size", "64", "--batch", "2", "--workers", "0", "--device", "cpu")


def data_set(root: Path, wrong: dict[int, str]) -> Path:
    """Ten images of a cat, the last of a dog, and their right detections; `wrong`: what these contradict in which."""
    images, entries, found = [], [], []
    for n in range(1, 11):
        put(root / f"data/train/{n}.png", png(80, 60, 10 * n))
        images.append({"id": n, "file_name": f"{n}.png", "width": 80, "height": 60})
        entries.append({"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0})
        entries[-1]["category_id"] = 2 if n == 10 else 1
        label = 2 if n == 10 or wrong.get(n) == "wrong_label" else 1
        found.append({"image_id": n, "category_id": label, "bbox": [5, 5, 30, 30], "score": 0.95})
        if wrong.get(n) == "missing_annotation":
            found.append({"image_id": n, "category_id": 1, "bbox": [45, 30, 20, 20], "score": 0.96})
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": entries, "categories": names}
    put(root / "data/annotations/instances_train.json", json.dumps(content))
    return put(root / "found.json", json.dumps(found)).parent / "data"


def training(data: Path) -> onelook.Dataset:
    return onelook.open_dataset(data, "train", reporter=SILENT)


def names_of(dataset: Any) -> list[str]:
    return [dataset.file_name(row) for row in range(len(dataset))]


def test_images_with_contradicted_annotations_are_left_out_and_listed(tmp_path: Path) -> None:
    data = data_set(tmp_path, {2: "wrong_label", 4: "missing_annotation"})
    found = find_suspicious(training(data), str(tmp_path / "found.json"), SILENT)
    assert names_of(found.dataset) == [f"{n}.png" for n in (1, 3, 5, 6, 7, 8, 9, 10)]
    assert "Left out 2 of 10 training images" in (note := found.note(tmp_path))
    assert "1 with another class, 1 objects without annotation" in note
    found.write(tmp_path)
    listed = {one["file"]: one for one in json.loads((tmp_path / "suspicious.json").read_text())["left_out"]}
    assert (listed["2.png"]["detected"], listed["2.png"]["annotated"]) == ("dog", "cat")
    assert listed["4.png"]["box"] == [45, 30, 20, 20] and listed["4.png"]["annotated"] is None
    again = read_suspicious(training(data), tmp_path)
    assert again.dataset.identity() == found.dataset.identity() and again.note(tmp_path) == note


def test_detections_that_agree_leave_nothing_out(tmp_path: Path) -> None:
    data = data_set(tmp_path, {})
    found = find_suspicious(training(data), str(tmp_path / "found.json"), SILENT)
    assert len(found.dataset) == 10 and not found.left_out


def test_at_most_a_fifth_is_left_out_the_most_certain_contradictions_first(tmp_path: Path) -> None:
    data = data_set(tmp_path, dict.fromkeys(range(1, 9), "missing_annotation") | {3: "wrong_label"})
    detections = json.loads((tmp_path / "found.json").read_text())
    for one in detections:
        one["score"] = 0.97 if one["image_id"] in (3, 7) else 0.96
    put(tmp_path / "found.json", json.dumps(detections))
    found = find_suspicious(training(data), str(tmp_path / "found.json"), SILENT)
    assert names_of(found.dataset) == [f"{n}.png" for n in (1, 2, 4, 5, 6, 8, 9, 10)]
    assert {one["file"] for one in found.left_out} == {"3.png", "7.png"}
    note = found.note(tmp_path)
    assert "Of the others, 6 are contradicted too, not more certainly; they stay" in note and "may be wrong" in note
    found.write(tmp_path)
    assert read_suspicious(training(data), tmp_path).note(tmp_path) == note
    content = json.loads((tmp_path / "suspicious.json").read_text())
    assert {one["file"] for one in content["stayed"]} == {f"{n}.png" for n in (1, 2, 4, 5, 6, 8)}
    del content["stayed"]  # as earlier versions wrote it
    put(tmp_path / "suspicious.json", json.dumps(content))
    assert read_suspicious(training(data), tmp_path).dataset.identity() == found.dataset.identity()
    put(tmp_path / "suspicious.json", json.dumps(content | {"stayed": [{"file": "other.png"}]}))
    with pytest.raises(DataError, match=r"names 'other\.png'"):
        read_suspicious(training(data), tmp_path)
    put(tmp_path / "suspicious.json", json.dumps(content | {"stayed": -3}))
    with pytest.raises(DataError, match="is damaged"):
        read_suspicious(training(data), tmp_path)


@pytest.mark.parametrize(("images", "left_out"), [(1, 0), (2, 0), (4, 0), (5, 1), (9, 1)])
def test_few_images_are_not_left_without_any(tmp_path: Path, images: int, left_out: int) -> None:
    data = data_set(tmp_path, dict.fromkeys(range(1, 10), "missing_annotation"))
    some = training(data).view(np.arange(images))
    detections = [one for one in json.loads((tmp_path / "found.json").read_text()) if one["image_id"] <= images]
    put(tmp_path / "found.json", json.dumps(detections))
    found = find_suspicious(some, str(tmp_path / "found.json"), SILENT)
    assert (len(found.dataset), found.note(tmp_path).startswith(f"Left out {left_out} of")) == (images - left_out, True)


def test_a_model_that_is_no_help_is_refused(tmp_path: Path) -> None:
    data = data_set(tmp_path, {})
    put(tmp_path / "found.json", "[]")
    with pytest.raises(UserError, match="No detection of"):
        find_suspicious(training(data), str(tmp_path / "found.json"), SILENT)


def test_a_list_of_another_data_set_or_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    data = data_set(tmp_path, {2: "wrong_label"})
    for text, said in (("{", "is damaged"), ("{}", "is damaged"), ("[]", "is damaged")):
        put(tmp_path / "suspicious.json", text)
        with pytest.raises(DataError, match=said):
            read_suspicious(training(data), tmp_path)
    put(tmp_path / "suspicious.json", '{"source": "x", "images": 10, "left_out": [{"file": "other.png"}]}')
    with pytest.raises(DataError, match=r"names 'other\.png'"):
        read_suspicious(training(data), tmp_path)


def test_a_resumed_run_keeps_its_list_and_processes_need_detections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_option(None, {}, resume=True, folder=tmp_path)
    check_option("a", {"drop_suspicious": "a"}, resume=True, folder=tmp_path)
    with pytest.raises(UsageError, match="started with drop_suspicious None"):
        check_option("a", {}, resume=True, folder=tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_option("a.json", {}, resume=False, folder=tmp_path)
    with pytest.raises(UsageError, match="In several processes"):
        check_option("runs/a", {}, resume=False, folder=tmp_path)


@pytest.mark.slow
def test_a_training_leaves_them_out_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_cli_resume import stop_after

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))
    data, out = data_set(tmp_path, {2: "wrong_label", 4: "missing_annotation"}), tmp_path / "run"
    given = ["train", str(data), *SMALL, "--epochs", "2", "--out", str(out), "--val-split", "none"]
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert run([*given, "--drop-suspicious", str(tmp_path / "found.json")]) == 130
    assert "Left out 2 of 10" in (out / "train.log").read_text()
    (tmp_path / "found.json").unlink()  # the run has its own list
    assert run(["train", str(data), "--out", str(out), "--resume"]) == 0
    assert (out / "train.log").read_text().count("Left out 2 of 10") == 2
    capsys.readouterr()
