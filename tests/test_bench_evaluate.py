"""The benchmark of evaluations measures what it says, on small input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from command import run_benchmark
from evaluation import bench_score, bench_val, evaluation, random_evaluation
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.evaluation import score
from onnx_models import describe, write_model
from test_evaluate_runner import FindsBright, Rectangles


def test_scoring_is_timed_on_a_middling_model() -> None:
    found = bench_score(images=20, per_image=10, classes=3, rounds=2)
    sizes = {"images": 20, "objects": 140, "detections": 200, "classes": 3}
    assert sizes.items() <= found.setup.items() and {"device", "warm-up"} <= set(found.setup)
    assert [timing.rounds for timing in found.timings] == [2] and found.ratio is None
    assert 0.0 < score(*random_evaluation(200, 50, 3)).stats["AP50"] < 0.9
    json.dumps(found.to_dict())


def test_val_and_bare_loop_see_the_same_images() -> None:
    seen: list[int] = []
    found = bench_val(FindsBright(), lambda batch: seen.append(len(batch)), Rectangles(), None, batch=5, rounds=2)
    assert seen == [5, 5, 5, 5, 3] * 3  # one round more than is counted
    assert found.ratio is not None and [timing.name for timing in found.timings] == ["bare loop", "val"]
    found.show(Console(file=io.StringIO()))
    json.dumps(found.to_dict())


def test_a_model_is_measured_on_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_synthetic(tmp_path / "scenes", Scenes(size=(96, 96)), {"val": 3})
    model = write_model(tmp_path / "small.onnx", metadata=describe(names=["ball", "mug"]))
    report = tmp_path / "report.json"
    assert run_benchmark(evaluation, [str(data), "--model", str(model), "--rounds", "1", "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["ratio"] > 0 and {"device", "threads", "precision", "batch", "nms"} <= set(found["setup"])
    assert run_benchmark(evaluation, [str(data)]) == 2
