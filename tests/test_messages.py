"""Mistakes of a first day: what is said, and what the remedy is."""

from __future__ import annotations

from pathlib import Path

import pytest

import onelook
from data_sets import coco
from onelook.config import override
from onelook.data.cache import FOLDER
from onelook.errors import ConfigError, UserError, WeightsError
from onelook.recipes import default_recipe
from onelook.weights.checkpoint import read_checkpoint


@pytest.mark.parametrize("model", ["https://example.org/yolox_s.pth", "https://example.org/yolox_s.onnx", "s3://a/b"])
def test_an_address_is_to_be_downloaded_first(model: str) -> None:
    with pytest.raises(UserError, match="is an address") as caught:
        onelook.load(model)
    assert "Download it first" in caught.value.remedy and model in caught.value.message
    with pytest.raises(UserError, match="is an address"):
        onelook.load("yolox-nano", weights=model)


def test_files_that_are_no_weights_are_called_what_they_are(tmp_path: Path) -> None:
    for content, words in (
        ('<?xml version="1.0"?>\n<net name="Model0" version="11">', "is an OpenVINO model"),
        ('<net name="Model0">', "is an OpenVINO model"),
        ("<!DOCTYPE html><html>", "looks like a web page"),
        ('<?xml version="1.0"?><annotation>', "is XML"),
    ):
        path = tmp_path / "weights.bin"
        path.write_text(content)
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(path)


def test_a_run_that_does_not_exist_is_told_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "runs" / "yolox-nano").mkdir(parents=True)
    (tmp_path / "runs" / "yolox-nano" / "best.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"does not exist\. Did you mean 'yolox-nano'") as caught:
        onelook.load(tmp_path / "runs" / "yolox-nan")
    assert "Runs with weights" in caught.value.remedy
    with pytest.raises(ConfigError, match="nor does the folder"):
        onelook.load(tmp_path / "rnus" / "yolox-nano")
    with pytest.raises(ConfigError, match="Did you mean 'yolox-nano'"):
        onelook.load("yolox-nan0")


def test_a_run_without_a_finished_epoch_is_told_with_the_command_that_continues_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(WeightsError, match="stopped before the end of its first epoch") as caught:
        onelook.load(tmp_path)
    assert f"--out {tmp_path} --resume" in caught.value.remedy


def test_the_folder_of_an_index_is_said_once_and_never_made_in_a_read_only_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = coco(tmp_path / "data")
    onelook.open_dataset(data)
    assert f"kept in '{data / FOLDER}'" in capsys.readouterr().err and (data / FOLDER).is_dir()
    onelook.open_dataset(data)
    assert FOLDER not in capsys.readouterr().err
    locked = coco(tmp_path / "locked")
    locked.chmod(0o555)
    onelook.open_dataset(locked)
    locked.chmod(0o755)
    assert not (locked / FOLDER).exists() and FOLDER not in capsys.readouterr().err
    assert list((tmp_path / "cache").rglob("*.index"))


def test_a_setting_of_another_type_says_what_it_takes() -> None:
    recipe = default_recipe("yolox-nano")
    with pytest.raises(ConfigError, match=r"(?i)epochs.*whole number.*ten"):
        override(recipe, "epochs=ten")
