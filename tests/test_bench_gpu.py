"""The benchmark for a GPU, on a CPU with small sizes: its parts, its table, and the textbook step beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gpu_tests
from baseline.step import TextbookStep, textbook_losses
from gpu_results import Rows
from gpu_table import markdown
from graph_step import GraphStep
from networks import narrow
from onelook.config import change
from onelook.losses.detection_loss import DetectionLoss
from onelook.networks.build import build
from onelook.recipes import default_recipe
from onelook.training.loop import Step, train
from onelook.training.recipe import Recipe
from onelook.training.schedule import Constant
from onelook.training.train_state import RuntimeOptions, TrainState
from test_host_copies import ALONE, TARGETS, OneBatch

ROOT = Path(__file__).resolve().parents[1]


def narrow_recipe(name: str, **changes: Any) -> Recipe:
    recipe = default_recipe(name)
    new = {"batch_size": 2, "size": (64, 64), "epochs": 2, "accumulate": 1, "closing": None, "multiscale": None}
    new |= {"join_micro_batches": False, "schedule": Constant()}
    return change(recipe, {"model": narrow(recipe.model), **new, **changes})


@pytest.mark.parametrize("name", ["yolox-s", "yolov7", "damo-yolo-s", "yolov4-csp"])
def test_the_textbook_step_has_the_same_losses(name: str) -> None:
    recipe = narrow_recipe(name)
    assert isinstance(recipe.loss, DetectionLoss)
    torch.manual_seed(0)
    predictions = build(recipe.model, ("a", "b", "c")).train()(torch.rand(2, 3, 64, 64) * 255)
    ours, theirs = recipe.loss(predictions, TARGETS), textbook_losses(recipe.loss, predictions, TARGETS)
    assert {one: value.item() for one, value in theirs.items()} == pytest.approx(
        {one: value.item() for one, value in ours.items()}, rel=1e-4
    )


def test_a_textbook_step_changes_the_weights_as_a_training_does() -> None:
    recipe = narrow_recipe("yolox-nano", seed=0)
    detectors = []
    for _ in range(2):
        torch.manual_seed(0)
        detectors.append(build(recipe.model, ("a", "b", "c")))
    textbook, trained = detectors
    before = [parameter.detach().clone() for parameter in textbook.parameters()]
    step = TextbookStep(recipe, textbook, torch.device("cpu"), None)
    batch = next(OneBatch().epoch(0, None, 0))
    losses = step(batch.images, batch.targets)
    event = next(train(recipe, TrainState(recipe, trained, ALONE, RuntimeOptions()), OneBatch()))
    assert isinstance(event, Step)
    assert losses == pytest.approx({name: value.item() for name, value in event.losses.items()}, rel=1e-4)
    for one, other, first in zip(textbook.parameters(), trained.parameters(), before):
        torch.testing.assert_close(one - first, other - first, rtol=1e-2, atol=1e-5)
    assert not all(torch.equal(one, first) for one, first in zip(step.average.parameters(), before))


def test_a_step_of_a_graph_is_that_of_a_training() -> None:
    """Without CUDA it is not captured: the same forward and backward pass, on tensors that stay where they are."""
    recipe, found = narrow_recipe("yolox-nano"), []
    for graph in (False, True):
        torch.manual_seed(0)
        train_state = TrainState(recipe, build(recipe.model, ("a", "b", "c")), ALONE, RuntimeOptions())
        batch = next(OneBatch().epoch(0, None, 0))
        if graph:
            # What the schedule sets in a training.
            for group in train_state.optimizer.param_groups:
                group["lr"] = recipe.optimizer.lr_per_image * recipe.batch_size
            step = GraphStep(recipe, train_state, batch.images, batch.targets)
            losses = [step() for _ in range(2)]
        else:
            events = train(recipe, train_state, OneBatch())
            losses = [event.losses for event in events if isinstance(event, Step)]
        found.append([sum(value.item() for value in one.values()) for one in losses])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_rows_are_written_as_they_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Rows(tmp_path / "out" / "rows.jsonl", 60)

    def fails() -> dict[str, Any]:
        raise RuntimeError("out of memory")

    rows.measure({"name": "a"}, lambda: {"value": 1})
    rows.measure({"name": "b"}, fails)
    Rows(tmp_path / "out" / "rows.jsonl", 0).measure({"name": "c"}, fails)
    found = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in found] == ["a", "b", "c"] and found[0]["value"] == 1
    assert found[1]["error"] == "RuntimeError: out of memory" and found[2]["left_out"] == "no time left"
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_outcomes_of_tests_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_TESTS_ROWS", str(tmp_path / "rows"))
    kinds = (("setup", "passed"), ("call", "passed"), ("setup", "skipped"), ("call", "failed"))
    for when, outcome in kinds:
        report = SimpleNamespace(when=when, outcome=outcome, nodeid="t", duration=0.5, longreprtext="why")
        report.failed, report.skipped = outcome == "failed", outcome == "skipped"
        gpu_tests.pytest_runtest_logreport(report)
    found = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["outcome"] for row in found] == ["passed", "skipped", "failed"] and found[2]["error"] == "why"


STEP = {"part": "steps", "model": "yolox-s", "batch": 64, "size": 640, "precision": "fp16", "layout": "channels-last"}
OWN = {"step": "eager", "milliseconds": 30.0, "images_per_second": 2133.0, "synchronisations": 0, "gib": 20.5}
ROWS: list[dict[str, Any]] = [
    {"part": "tests", "test": "tests/test_cuda.py::a", "outcome": "passed", "seconds": 1},
    {"part": "tests", "test": "tests/test_cuda.py::b", "outcome": "failed", "seconds": 1, "error": "why"},
    {**STEP, **OWN, "share_of_losses": 0.06},
    {**STEP, "step": "textbook", "milliseconds": 90.0, "images_per_second": 711.0, "synchronisations": 400, "gib": 30},
    {**STEP, "step": "compiled", "error": "RuntimeError: a | b\nmore"},
    {
        "part": "trainings",
        "model": "yolox-s",
        "batch": 64,
        "workers": 15,
        "augment_on": "device",
        "cache": "ram",
        "images_per_second": 1700.0,
        "part_waiting_for_the_loader": 0.25,
        "gib": 22,
    },
    {"part": "detection", "model": "yolox-s", "size": 640, "batch": 1, "name": "tensorrt", "precision": "fp16"}
    | {"left_out": "tensorrt is not installed"},
]


def test_a_table_says_what_was_reached_and_what_was_not_measured() -> None:
    parts = {"tests": {"seconds": 3, "end": "exit code 1", "log": "x"}}
    page = markdown({"setup": {"gpu": "X"}, "parts": parts, "rows": ROWS})
    for said in (
        "| reached | step, 2000 images a second at least | 2133 |",
        "| reached | no synchronisation in a step, reading the losses aside | 0 |",
        "| missed | assignment and losses, 5 % of the step at most | 6.0% |",
        "| missed | whole training with cached images, 1800 images a second at least | 1700 |",
        "1 failed, 1 passed.",
        "- `tests/test_cuda.py::b`",
        "| yolox-s | eager | fp16 | channels-last |  | 30.0 | 2133 | 3.00 | 20.5 | 0.00 | 6.0% |",
        "| yolox-s | compiled | fp16 | channels-last | RuntimeError: a / b |",
        "tensorrt is not installed",
    ):
        assert said in page
    empty = markdown({"setup": {}, "parts": {}, "rows": []})
    assert "reached" not in empty and "##" not in empty


@pytest.mark.slow
@pytest.mark.parametrize("part", ["steps", "trainings", "detection"])
def test_a_part_of_the_script_without_a_gpu(part: str, tmp_path: Path) -> None:
    """As on a GPU, but tiny: each measurement has a figure or says why not."""
    command = ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run", "--device", "cpu", "--parts", part]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--seconds", "400", "--out", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["parts"][part]["end"] == "exit code 0"
    assert result["rows"] and all(row["part"] == part for row in result["rows"])
    errors = [row for row in result["rows"] if "error" in row]
    assert not errors
    assert [row for row in result["rows"] if row.get("images_per_second", 0) > 0]
    assert "images/s" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_without_a_gpu_the_script_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    command = ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "no CUDA device" in done.stderr
