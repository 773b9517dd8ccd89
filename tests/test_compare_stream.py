"""`onelook compare --fps`: streaming AP of models beside their AP."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import onelook
from onelook.cli.app import run
from onelook.errors import UserError
from onelook.reporter import SilentReporter

pytest.importorskip("onnx")
from onnx_models import describe, write_model
from test_stream import write_frames


def test_compare_shows_streaming_ap_beside_ap(tmp_path: Path, capsys) -> None:
    data = write_frames(tmp_path / "data")
    for name in ("a", "b"):
        write_model(tmp_path / f"{name}.onnx", metadata=json.dumps(describe(version=name)))
    models = [str(tmp_path / f"{name}.onnx") for name in ("a", "b")]
    settings = ["--runs", "3", "--without-memory", "--resamples", "100", "--out", str(tmp_path / "out")]
    assert run(["compare", str(data), *models, *settings, "--fps", "0.01"]) == 0
    assert "sAP_S" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/compare.json").read_text())["models"]
    page = (tmp_path / "out/compare.html").read_text()
    assert "Streaming AP and speed" in page and "offline AP" in page
    rows = list(csv.DictReader((tmp_path / "out/models.csv").read_text().splitlines()))
    for row, model in zip(rows, found):
        # Frames of 100 seconds: each is detected long before the next, and shown one frame late.
        assert 0 < model["streaming"]["AP"] <= model["stats"]["AP"] and model["frame_ms"] > 0
        assert float(row["sAP"]) == model["streaming"]["AP"] and float(row["ms_frame"]) == model["frame_ms"]
    plain = onelook.compare(models, data, runs=3, memory=False, resamples=100, reporter=SilentReporter())
    assert not plain.models[0].streaming and "sAP" not in plain.models_csv() and "sAP" not in str(plain)
    with pytest.raises(UserError, match="fps is 0"):
        onelook.compare(models, data, fps=0.0, reporter=SilentReporter())


@pytest.mark.parametrize("verb", ["stream", "compare"])
def test_a_model_without_a_class_of_the_data_is_refused_before_anything_is_measured(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onelook.api import comparing

    for name in ("alternate", "evaluate_predictor"):
        monkeypatch.setattr(comparing, name, lambda *_, **__: pytest.fail("it was measured"))
    bird = write_model(tmp_path / "bird.onnx", metadata=json.dumps(describe(names=["bird", "tree"])))
    cat, data = write_model(tmp_path / "cat.onnx"), write_frames(tmp_path / "data")
    models = ("--models", f"{cat},{bird}") if verb == "stream" else (cat, bird)
    assert run([verb, *map(str, (data, *models)), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "bird: The model and the data set have no class in common" in said and not (tmp_path / "out").exists()
