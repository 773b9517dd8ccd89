"""The demo, end to end at its smallest: every stage runs and every file that it names exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onelook.cli.app import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_demo_trains_detects_exports_and_reports(tmp_path: Path) -> None:
    out, told = tmp_path / "demo", tmp_path / "demo.json"
    small = ("--epochs", "1", "--images", "16", "--size", "64")
    assert run("demo", "--out", str(out), *small, "--json", str(told)) == 0
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
