"""`onelook models` tells what there is, from the command line to the JSON."""

from __future__ import annotations

import json

import pytest

from networks import manifest
from onelook.cli.app import run
from onelook.networks.variants import VARIANTS
from shared import needs_shared


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert run(["models", *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)["models"]


@needs_shared
def test_counts_of_every_yolox_are_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in _json(capsys)}
    assert list(rows) == list(VARIANTS)
    for name, entry in manifest("yolox").items():
        assert rows[name]["parameters"] == entry["parameters"]
        assert rows[name]["deploy_parameters"] == entry["deploy_parameters"]
        assert rows[name]["gflops"] == pytest.approx(entry["gflops"], rel=0.005)
        assert rows[name]["size"] == entry["gflops_size"]
        assert rows[name]["licence"] == "Apache-2.0"


def test_no_name_or_number_is_cut_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["models"]) == 0
    shown = capsys.readouterr().out
    assert not [name for name in VARIANTS if name not in shown]
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_one_model_alone(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = _json(capsys, "yolox-nano")
    assert (row["family"], row["ap"], row["weights"]) == ("YOLOX", 25.8, "yolox_nano.pth")
    assert run(["models", "yolox-nano"]) == 0
    shown = capsys.readouterr().out
    assert "0.91 M" in shown and "1.05" in shown and row["url"] in shown


def test_files_to_train_from_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = _json(capsys, "yolov4")
    assert row["backbone"].endswith("/yolov4.conv.137") and row["url"].endswith("/yolov4.weights")
    assert run(["models", "csresnext50-panet-spp"]) == 0
    assert "to train from: csresnext50-panet-spp.conv.112" in capsys.readouterr().out


def test_unknown_model_is_one_message_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "yolox-nanno"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith("Did you mean 'yolox-nano'? See the names with: onelook models")
