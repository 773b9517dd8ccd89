"""What can be done with one model can be done with every model, by the command line, on narrow copies of them.

One model of each family in the ordinary run, all of them in the slow one.
"""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from every_variant_in_two_processes import STEPS
from networks import narrow
from onelook.augment.letterbox import Stretch
from onelook.cli.app import run
from onelook.config import change, to_plain, write_yaml
from onelook.data.loader import collate
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.networks.variants import VARIANTS, variant
from onelook.recipes import default_recipe, find_recipe
from onelook.weights import restore
from test_train_processes import launch

ONE_OF_EACH = ("yolox-nano", "yolov4-tiny", "yolov7-w6", "damo-yolo-ns")
MODELS = [pytest.param(name, marks=() if name in ONE_OF_EACH else pytest.mark.slow) for name in VARIANTS]


def test_the_ordinary_run_has_a_model_of_every_family() -> None:
    assert {variant(name).family for name in ONE_OF_EACH} == {row.family for row in VARIANTS.values()}


pytestmark = pytest.mark.usefixtures("one_thread_in_module")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(64, 64), classes=3), {"train": 4, "val": 2})


@dataclass(frozen=True)
class Trained:
    """A run of two epochs of two steps, by the published recipe of a narrow model."""

    name: str
    asked: tuple[str, ...]
    folder: Path
    scenes: Path

    @property
    def weights(self) -> Path:
        return self.folder / "last.safetensors"


def train(scenes: Path, out: Path, *arguments: str) -> int:
    return run(["train", str(scenes), "--device", "cpu", "--workers", "0", "--out", str(out), *arguments])


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    narrowed = change(default_recipe(name), {"model": narrow(variant(name).architecture), "multiscale": None})
    write_yaml(folder / "narrow.yaml", to_plain(narrowed))
    recipe = ("--recipe", str(folder / "narrow.yaml"))
    asked = (*recipe, "--epochs", "2", "--size", "64", "--batch", "2")
    assert train(scenes, folder / "run", *asked) == 0
    return Trained(name, asked, folder / "run", scenes)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_training_leaves_finite_losses_and_its_own_network(trained: Trained) -> None:
    with (trained.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and {"AP", "AP50"} <= set(rows[-1])
    losses = {key: float(value) for row in rows for key, value in row.items() if key.startswith("loss/") and value}
    assert losses["loss/total"] > 0 and all(math.isfinite(value) for value in losses.values())
    recipe = find_recipe(trained.folder)
    assert recipe.model == restore(trained.weights).architecture
    assert type(recipe.model) is type(variant(trained.name).architecture)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def interrupting(*given: Any) -> Any:
        """The signal of Ctrl-C as the first batch of the second epoch is made; one batch was drawn before the first."""
        made.append(given)
        if len(made) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return collate(*given)

    monkeypatch.setattr("onelook.data.loader.collate", interrupting)
    assert train(trained.scenes, tmp_path / "run", *trained.asked) == 130
    monkeypatch.undo()
    assert train(trained.scenes, tmp_path / "run", "--resume") == 0
    found, wanted = (restore(path).state_dict() for path in (tmp_path / "run" / trained.weights.name, trained.weights))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_weights_start_a_training_of_other_classes(trained: Trained, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", Scenes(size=(64, 64), classes=2), {"train": 2, "val": 1})
    asked = (*trained.asked[:2], "--epochs", "1", "--size", "64", "--batch", "2", "--weights", str(trained.weights))
    assert train(data, tmp_path / "run", *asked) == 0
    before, after = restore(trained.weights), restore(tmp_path / "run" / trained.weights.name)
    assert (before.architecture.num_classes, after.architecture.num_classes) == (3, 2)
    # A step of the warm-up moves a kernel by little: what the first training left is still there.
    name = next(key for key, value in before.backbone.state_dict().items() if value.dim() == 4)
    torch.testing.assert_close(
        after.backbone.state_dict()[name], before.backbone.state_dict()[name], rtol=0.05, atol=0.02
    )


def test_a_run_is_evaluated_used_and_measured(trained: Trained, tmp_path: Path) -> None:
    model, low = ("--model", str(trained.folder), "--device", "cpu"), ("--confidence", "0.0001")
    found = tmp_path / "results.json"
    asked = ("--detections", str(found), "--json", str(tmp_path / "val.json"))
    assert run(["val", str(trained.scenes), *model, *low, *asked]) == 0
    assert 0 <= read(tmp_path / "val.json")["stats"]["AP"] <= 1
    assert len(read(found)) == read(tmp_path / "val.json")["detections"] > 0
    assert run(["val", str(trained.scenes), *model, *low, "--tta"]) == 0
    stretched = isinstance(variant(trained.name).architecture.frame, Stretch)
    # A model that stretches its images knows no rectangles, and says so.
    assert run(["val", str(trained.scenes), *model, *low, "--rectangular"]) == (2 if stretched else 0)
    images = sorted(str(path) for path in trained.scenes.rglob("*.jpg"))
    asked = (*low, "--out", str(tmp_path / "found"), "--json", str(tmp_path / "detect.json"))
    assert run(["detect", *images, *model, *asked]) == 0
    said = read(tmp_path / "detect.json")
    assert said["images"] == len(images) == 6 and said["detections"] > 0 and not said["failures"]
    asked = ("--runs", "1", "--warm-up", "0", "--device", "cpu", "--json", str(tmp_path / "bench.json"))
    assert run(["bench", "model", str(trained.weights), *asked]) == 0
    assert read(tmp_path / "bench.json")["images_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("nms", [(), ("--nms",)], ids=["rows", "nms"])
def test_a_run_is_exported_and_the_file_is_a_model(trained: Trained, nms: tuple[str, ...], tmp_path: Path) -> None:
    """The command itself compares the file with PyTorch, and writes none that differs."""
    path = tmp_path / "model.onnx"
    asked = ("--out", str(path), "--json", str(tmp_path / "export.json"), *nms)
    assert run(["export", "--model", str(trained.folder), *asked]) == 0
    assert read(tmp_path / "export.json")["largest_score_difference"] < 1e-4
    assert any(node.op_type == "NonMaxSuppression" for node in onnx.load(path).graph.node) == bool(nms)
    asked = ("--confidence", "0.0001", "--detections", str(tmp_path / "results.json"))
    assert run(["val", str(trained.scenes), "--model", str(path), *asked]) == 0
    assert read(tmp_path / "results.json")


@pytest.mark.slow
def test_two_processes_hold_the_same_weights_after_every_step(tmp_path: Path) -> None:
    """Also where one of them sees no object in a step, so that some of its losses ask nothing of some layers."""
    first, second = launch(tmp_path, 2, script="every_variant_in_two_processes.py")
    assert set(first) == set(VARIANTS)
    for name in VARIANTS:
        assert first[name] == second[name], name
        assert len(first[name]) == STEPS + 1 and first[name][0] != first[name][-1], name
