"""The benchmark of videos: both ways run and see the same frames."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import video as benchmark
from onnx_models import write_model


@pytest.mark.parametrize("live", [False, True])
def test_the_benchmark_of_videos_runs(live: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, clip, report = write_model(tmp_path / "m.onnx"), tmp_path / "a.mp4", tmp_path / "report.json"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for _ in range(12):
        writer.write(np.full((48, 64, 3), 230, np.uint8))
    writer.release()
    arguments = [str(clip), "--model", str(model), "--frames", "10", "--rounds", "1", "--json", str(report)]
    assert benchmark.main([*arguments, *(["--live", "--track"] if live else [])]) == 0
    found = json.loads(report.read_text())
    assert all(value > 0 for value in found["milliseconds"].values())
    assert (found["ratio"] is None) is live and ("both / the slower" in capsys.readouterr().out) is not live
    assert benchmark.main([str(clip), "--model", str(model), "--frames", "99"]) == 2
    assert benchmark.main([*arguments, "--wait", "1"]) == 0
