"""A training divides its images itself, remembers how, and warns where it has nothing to evaluate on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onelook
from data_sets import put
from onelook.api.splits import open_divided, remember_division
from onelook.cli.app import run
from onelook.data import open_dataset, splits
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.errors import DataError, UsageError
from onelook.reporter import SilentReporter
from test_cli_resume import stop_after

SMALL = ("--model", "yolox-nano", "--size", "64", "--batch", "2", "--epochs", "2", "--workers", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set with a split to train on alone."""
    return write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 10})


def names_of(dataset: onelook.Dataset) -> list[str]:
    return [dataset.file_name(i) for i in range(len(dataset))]


def test_a_run_keeps_its_division_even_where_the_data_set_was_moved(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    training, validation, notes = open_divided(data, None, 0.2, folder, reporter=SilentReporter())
    assert (len(training), len(validation)) == (8, 2) and (training.split, validation.split) == ("train", "val")
    assert not set(names_of(training)) & set(names_of(validation)) and "Divided: 20 %" in notes[0]
    remember_division(folder, training, validation)
    assert splits(folder / "split") == ("train", "val")
    assert names_of(open_dataset(folder / "split", "val", reporter=SilentReporter())) == names_of(validation)
    kept = sorted(names_of(training)[:2])  # another division than the rule would find
    put(folder / "split/val.txt", "".join(f"{training.root}/{name}\n" for name in kept))
    moved = data.rename(tmp_path / "moved")
    _, again, notes = open_divided(moved, None, 0.2, folder, reporter=SilentReporter())
    assert sorted(names_of(again)) == kept and "Divided as before" in notes[0]
    put(folder / "split/val.txt", "gone.jpg\n")
    with pytest.raises(DataError, match=r"val\.txt:1: the image 'gone\.jpg' is not in"):
        open_divided(moved, None, 0.2, folder, reporter=SilentReporter())


def test_an_opened_data_set_and_an_undivided_one_are_divided_too(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, "train", reporter=SilentReporter())
    part = replace(dataset, rows=np.arange(0, 10, 2))
    training, validation, _ = open_divided(part, None, 0.4, tmp_path / "run", reporter=SilentReporter())
    assert sorted(names_of(training) + names_of(validation)) == sorted(names_of(part)) and len(validation) == 2


def test_a_data_set_with_a_val_split_is_not_divided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_synthetic(tmp_path / "scenes", Scenes(size=(64, 64)), {"train": 4, "val": 2})
    with pytest.raises(UsageError, match="has a split 'val' to evaluate on"):
        open_divided(data, None, 0.2, tmp_path / "run", reporter=SilentReporter())
    assert run(["train", str(data), *SMALL, "--val-fraction", "0.2", "--val-split", "val"]) == 2
    assert "a fraction to hold back" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_its_division(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_after(3, monkeypatch)
    assert run(["train", str(data), *SMALL, "--val-fraction", "0.2", "--out", str(out)]) == 130
    assert "no split 'val'" not in capsys.readouterr().err
    listed = (out / "split/val.txt").read_text()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))
    assert run(["train", str(data), "--out", str(out), "--resume", "--val-fraction", "0.3"]) == 2
    assert "was started with val_fraction 0.2, not 0.3" in capsys.readouterr().err
    assert run(["train", str(data), "--out", str(out), "--resume"]) == 0
    told = capsys.readouterr().err
    assert "Divided as before" in told and "have changed since" not in told
    assert (out / "split/val.txt").read_text() == listed and len(listed.splitlines()) == 2
    assert run(["val", str(out / "split"), "--model", str(out), "--json", str(tmp_path / "val.json")]) == 0
    assert '"images": 2' in (tmp_path / "val.json").read_text()


@pytest.mark.slow
def test_a_training_without_anything_to_evaluate_on_warns_loudly(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(data), *SMALL, "--out", str(tmp_path / "run")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "has no split 'val': nothing will show how the model does on new images" in told
    assert "--val-fraction 0.2" in told and "onelook split" in told
    assert "has no split 'val'" in (tmp_path / "run/train.log").read_text()
    assert run(["train", str(data), *SMALL, "--out", str(tmp_path / "meant"), "--val-split", "none"]) == 0
    assert "has no split 'val'" not in capsys.readouterr().err
