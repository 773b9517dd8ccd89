"""`onelook val` from the command line to its files, on real images and official weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onelook
from onelook.api.score import score
from onelook.cli.app import run
from onelook.errors import UserError
from onelook.evaluation import evaluate
from onelook.evaluation.annotations import read_ground_truth
from shared import data, needs_shared, reference

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def expected() -> dict[str, Any]:
    return json.loads((data("coco_mini") / "reference_yolox_nano.json").read_text())


def official() -> list[str]:
    return ["--model", "yolox-nano", "--weights", str(reference("yolox") / "yolox_nano.onnx"), "--size", "416"]


@needs_shared
def test_official_weights_have_their_reference_numbers_and_files(tmp_path: Path) -> None:
    report, found = tmp_path / "val.json", tmp_path / "detections.json"
    arguments = ["val", str(data("coco_mini")), *official(), "--json", str(report), "--detections", str(found)]
    assert run(arguments) == 0
    plain = json.loads(report.read_text())
    assert list(plain)[:5] == ["stats", "per_class", "images", "detections", "seconds"]
    assert list(plain["stats"].values()) == pytest.approx(list(expected()["stats"].values()), abs=0.002)
    assert plain["images"] == 103 and abs(plain["detections"] - 5928) <= 20
    for name, values in expected()["per_class"].items():
        assert plain["per_class"][name]["AP"] == pytest.approx(values["AP"], abs=0.02)
    again = score(data("coco_mini") / "annotations" / "instances_val.json", found)
    assert again.stats == pytest.approx(plain["stats"], abs=1e-12)
    entries = json.loads(found.read_text())
    assert max(entry["category_id"] for entry in entries) > 80  # the data set's ids, not labels
    assert {entry["image_id"] for entry in entries} <= set(again.truth.image_ids.tolist())


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("nms", [False, True], ids=["raw", "nms inside"])
def test_exported_file_has_the_reference_numbers(nms: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "exported.onnx"
    assert run(["export", *official(), "--to", "onnx", "--out", str(path), *(["--nms"] if nms else [])]) == 0
    found = onelook.validate(path, data("coco_mini"))
    assert list(found.stats.values()) == pytest.approx(list(expected()["stats"].values()), abs=0.002)


@needs_shared
def test_a_model_that_shares_no_class_is_refused_before_any_image_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["val", str(data("bccd")), *official()]) == 1
    error = capsys.readouterr().err
    assert "no class in common" in error and "Platelets" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "DATA"),
        (["nowhere"], 2, "--model"),
        (["nowhere", "--model", "yolox-nanu"], 1, "yolox-nano"),
        (["nowhere", "--model", "yolox-nano", "--batch", "0"], 2, "batch is 0"),
        (["nowhere", "--model", "yolox-nano", "--iou", "2"], 2, "iou is 2"),
        (["nowhere", "--model", "yolox-nano", "--detections", "."], 1, "is a folder"),
        (["nowhere", "--model", "yolox-nano", "--size", "big"], 2, "size"),
    ],
)
def test_mistakes_get_one_message(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["val", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_file_of_detections_is_replaced_only_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    found.write_text("kept")
    arguments = ["val", "nowhere", "--model", "yolox-nano", "--detections", str(found)]
    assert run(arguments) == 1
    assert f"'{found}' exists already" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert run([*arguments, "--report", str(found), "--overwrite"]) == 1
    assert "was named for two files" in capsys.readouterr().err
    assert run([*arguments, "--overwrite"]) == 1 and "exists already" not in capsys.readouterr().err
    assert found.read_text() == "kept"


def test_validate_is_the_command(tmp_path: Path) -> None:
    from onelook.api.validate import validate

    assert onelook.validate is validate


@needs_shared
def test_two_batches_of_one_image_and_one_of_two_agree() -> None:
    dataset = onelook.open_dataset(data("coco_mini"), split="val").view(range(4))
    predictor = onelook.load("yolox-nano", weights=reference("yolox") / "yolox_nano.onnx", size=416, device="cpu")
    postprocess = predictor.settings(0.01, 0.65)
    one, four = (evaluate(predictor.runtime, dataset, postprocess, batch=batch) for batch in (1, 4))
    assert len(one.results) == len(four.results)
    assert np.abs(one.results.boxes - four.results.boxes).max() < 0.05
    truth = read_ground_truth(data("coco_mini") / "annotations" / "instances_val.json")
    assert set(one.truth.image_ids.tolist()) <= set(truth.image_ids.tolist())


@pytest.mark.parametrize(("flags", "expected"), [([], None), (["--clip-boxes"], True), (["--no-clip-boxes"], False)])
def test_clipping_is_the_family_s_unless_it_is_given(
    flags: list[str], expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onelook.cli import val

    given: dict[str, Any] = {}

    def record(*_: object, **options: Any) -> None:
        given.update(options)
        raise UserError("stop")

    monkeypatch.setattr(val.api, "validate", record)
    assert run(["val", "data", "--model", "yolox-nano", *flags]) == 1
    assert given["clip_boxes"] is expected
