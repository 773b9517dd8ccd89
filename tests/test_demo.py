"""The demo, end to end at its smallest: every stage runs and every file that it names exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

from onelook.cli.app import main
from onelook.data import open_dataset


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_demo_trains_detects_exports_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the training and started again, it makes the rest and does not train twice."""
    out, told = tmp_path / "demo", tmp_path / "demo.json"
    small = ("--epochs", "1", "--images", "16", "--size", "64")

    def interrupted(*given: object, **settings: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("onelook.api.export.export", interrupted)
        assert run("demo", "--out", str(out), *small) == 130
    before = (out / "run" / "state.pt").read_bytes()
    assert not (out / "detector.onnx").exists()
    assert run("demo", "--out", str(out), *small, "--json", str(told)) == 0
    assert (out / "detector.onnx").exists() and (out / "run" / "state.pt").read_bytes() == before
    result = json.loads(told.read_text())
    assert set(result["seconds"]) == {"draw the data", "train", "detect", "export", "validate"}
    assert all(Path(path).exists() for path in result["paths"].values())
    assert result["stats"]["AP"] == pytest.approx(result["exported_stats"]["AP"], abs=1e-3)
    found = json.loads((out / "detections" / "detections.json").read_text())
    assert len(found) == 6
    page = (out / "run" / "report.html").read_text(encoding="utf-8")
    assert "yolox-nano on data" in page and "optimizer.lr_per_image" in page
    assert {"recipe.yaml", "metrics.csv", "best.safetensors", "last.safetensors", "state.pt", "train.log"} <= {
        path.name for path in (out / "run").iterdir()
    }
    assert run("demo", "--out", str(out), *small) == 1  # a finished demo is not overwritten


def test_the_data_set_alone_is_one_that_every_command_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, told = tmp_path / "scenes", tmp_path / "data.json"
    asked = ("--data-only", str(folder), "--images", "4", "--size", "64", "--difficulty", "0.9", "--classes", "5")
    assert run("demo", *asked, "--json", str(told)) == 0
    assert json.loads(told.read_text())["images"] == {"train": 4, "val": 1, "new": 6}
    assert "4 train, 1 val, 6 new images" in capsys.readouterr().out
    opened = open_dataset(folder, "train")
    assert len(opened) == 4 and len(opened.names) == 5
    assert json.loads((folder / "synthetic.json").read_text())["scenes"]["difficulty"] == 0.9
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["scenes"]  # no training was begun


@pytest.mark.parametrize("wrong", [("--difficulty", "2"), ("--size", "16"), ("--classes", "99"), ("--images", "0")])
def test_images_that_cannot_be_drawn_are_wrong_usage(
    wrong: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--data-only", str(tmp_path / "scenes"), *wrong) == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "scenes").exists()
