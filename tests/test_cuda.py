"""On a GPU: the numbers of the CPU, steps that never wait for the device, and whole trainings by the command line."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test_golden_losses as yolox_goldens
from golden_losses import targets_of
from networks import narrow
from onelook.cli.app import run
from onelook.config import change, to_plain, write_yaml
from onelook.data import open_dataset
from onelook.data.loader import Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolox import BoxIou, Classes, Objectness, RawL1
from onelook.networks.build import build
from onelook.networks.variants import variant
from onelook.recipes import default_recipe
from onelook.training.loop import Step, train
from onelook.training.meter import LossMeter
from onelook.training.multiscale import MultiScale
from onelook.training.optimizer import Sgd
from onelook.training.processes import ProcessGroup
from onelook.training.recipe import Recipe
from onelook.training.schedule import Constant
from onelook.training.train_state import RuntimeOptions, TrainState
from onelook.types import Targets
from onelook.weights import restore
from shared import data, needs_shared, reference
from test_train_loop import LOSS, BadGradient, SumOfBoxes
from training import Squares, changed, train_state_of

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]

GPU = torch.device("cuda")
ALONE = ProcessGroup(0, 1, GPU)
ONE_OF_EACH = ("yolox-nano", "yolov4-tiny", "yolov7-tiny", "yolov7-w6", "damo-yolo-ns")
PRECISIONS = ("fp32", "fp16", "bf16")


@pytest.fixture(autouse=True)
def as_exact_as_the_cpu() -> Iterator[None]:
    """Without TF32; and nothing of what a test sets stays."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 32, "val": 8}
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(96, 96), classes=3), counts)


def moved(value: Any, device: torch.device) -> Any:
    """A dataclass of tensors, and of more such, on another device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if not is_dataclass(value):
        return value
    parts = {one.name: getattr(value, one.name) for one in fields(value)}
    return replace(value, **{name: moved(part, device) for name, part in parts.items()})  # type: ignore[type-var]


def narrow_recipe(name: str, *, distilled: bool = False, **changes: Any) -> Recipe:
    """The published training of a narrow copy of a model, for four images of 64 pixels at a time."""
    recipe = default_recipe(name, distilled)
    new = {"model": narrow(recipe.model), "batch_size": 4, "size": (64, 64), "epochs": 3, "accumulate": 1}
    closing = None if recipe.closing is None else replace(recipe.closing, epochs=1)
    return change(recipe, {"closing": closing, "join_micro_batches": False, **new, **changes})


OBJECTS = Targets(
    torch.tensor([[[4.0, 6, 40, 50], [30, 20, 60, 61]], [[10, 10, 30, 34], [0, 0, 0, 0]]]),
    torch.tensor([[0, 2], [1, 0]]),
    torch.tensor([[True, True], [True, False]]),
)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_networks_and_losses_give_what_they_give_on_a_cpu(name: str) -> None:
    """In float64: what an object learns from, every term, and every gradient."""
    recipe = narrow_recipe(name)
    targets = replace(OBJECTS, boxes=OBJECTS.boxes.double())
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64) * 255
    found = {}
    for device in (torch.device("cpu"), GPU):
        torch.manual_seed(0)
        detector = build(recipe.model, ("a", "b", "c")).double().train().to(device)
        loss = recipe.loss_at(recipe.epochs - 1)
        losses = loss(detector(images.to(device)), targets.to(device))
        torch.stack(list(losses.values())).sum().backward()
        gradients = [p.grad.cpu() for p in detector.parameters() if p.grad is not None]
        found[device.type] = ({name: value.item() for name, value in losses.items()}, gradients)
    (expected, slopes), (measured, measured_slopes) = found["cpu"], found["cuda"]
    assert measured == pytest.approx(expected, rel=1e-9)
    for one, other in zip(measured_slopes, slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9 * max(1.0, float(other.abs().max())))


@needs_shared
@pytest.mark.parametrize("rule", yolox_goldens.RULES)
@pytest.mark.parametrize("case", yolox_goldens.CASES)
def test_golden_assignments_and_losses(case: str, rule: str) -> None:
    with np.load(reference("yolox") / "losses.npz") as file:
        arrays = dict(file)
    facts = yolox_goldens.CASES[case]
    assigner, folder = yolox_goldens.RULES[rule]
    expected = facts if rule == "later" else facts.get("legacy_rule", {})
    _, predictions, _ = yolox_goldens.problem(arrays, case, torch.float64)
    targets = targets_of(arrays[f"{case}/labels"], torch.float64).to(GPU)
    predictions = moved(predictions, GPU)
    matches = assigner(predictions, targets)
    for image in range(len(targets.valid)):
        valid = matches.valid[image]
        order = matches.priors[image][valid].argsort()
        wanted = arrays.get(f"{case}/{folder}image{image}/anchor", np.zeros(0, np.int64))
        np.testing.assert_array_equal(matches.priors[image][valid][order].cpu().numpy(), wanted)
    loss = DetectionLoss(assigner, (BoxIou(), Objectness(), Classes(), RawL1()))
    if "with_l1" in expected:
        total = torch.stack(list(loss(predictions, targets).values())).sum()
        assert total.item() == pytest.approx(expected["with_l1"]["total"], rel=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_step_never_waits_for_the_device(name: str, precision: Any, scenes: Path) -> None:
    """From the third step on, with the real loader, random shapes and the closing phase."""
    shapes = MultiScale(1, 2, every=1, stride=64)
    recipe = narrow_recipe(name, multiscale=shapes)
    if name == "yolov4-tiny":
        recipe = replace(recipe, accumulate=2)
    dataset = open_dataset(scenes, "train").view(range(16))
    train_state = TrainState(recipe, build(recipe.model, dataset.names), ALONE, RuntimeOptions(precision=precision))
    losses = []
    with Loader(
        dataset, (64, 64), 4, epochs=3, max_labels=recipe.max_labels, accumulate=recipe.accumulate, pin=True
    ) as loader:
        for number, event in enumerate(train(recipe, train_state, loader)):
            if isinstance(event, Step):
                losses.append(torch.stack(list(event.losses.values())))
            torch.cuda.set_sync_debug_mode("error" if number >= 1 else "default")
    torch.cuda.set_sync_debug_mode("default")
    assert len(losses) == 12 and all(loss.isfinite().all() and loss.sum() > 0 for loss in losses)


def test_a_step_with_a_teacher_never_waits_either(scenes: Path) -> None:
    recipe = narrow_recipe("damo-yolo-ns", distilled=True, multiscale=None)
    dataset = open_dataset(scenes, "train").view(range(16))
    teacher = build(narrow(variant("damo-yolo-t").architecture), dataset.names)
    train_state = TrainState(recipe, build(recipe.model, dataset.names), ALONE, RuntimeOptions(), teacher)
    with Loader(dataset, (64, 64), 4, epochs=3, pin=True) as loader:
        for number, _ in enumerate(train(recipe, train_state, loader)):
            torch.cuda.set_sync_debug_mode("error" if number >= 1 else "default")
    torch.cuda.set_sync_debug_mode("default")
    assert train_state.steps == 12 and all(p.isfinite().all() for p in train_state.detector.parameters())


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_that_is_not_finite_changes_no_weight(precision: Any, clip: float | None) -> None:
    recipe = changed(epochs=1, loss=LOSS.with_terms(SumOfBoxes()), closing=None, clip=clip)
    train_state, meter = train_state_of(recipe, ALONE, precision=precision), LossMeter()
    before, same, broken = _copy(train_state), [], []
    for event in train(recipe, train_state, Squares(broken=5)):
        if isinstance(event, Step):
            after = _copy(train_state)
            same.append(all(torch.equal(before[name], after[name]) for name in after))
            before = after
            meter.add(event)
            broken += meter.read()
    assert len(broken) == 1 and 5 in broken[0][0].images
    assert [number for number, unchanged in enumerate(same) if unchanged] == [broken[0][0].number]
    assert all(tensor.isfinite().all() for tensor in train_state.evaluated_model.state_dict().values())


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_changes_no_weight(precision: Any, value: float, clip: float | None) -> None:
    recipe = changed(epochs=1, schedule=Constant(), closing=None, clip=clip)
    train_state, meter = train_state_of(recipe, ALONE, precision=precision), LossMeter()
    BadGradient(train_state, at=1, value=value)
    states, broken = [_copy(train_state)], []
    for event in train(recipe, train_state, Squares()):
        if isinstance(event, Step):
            states.append(_copy(train_state))
            meter.add(event)
            broken += meter.read()
    same = [all(torch.equal(one[name], two[name]) for name in one) for one, two in pairwise(states)]
    assert same == [False, True, False] and [step.number for step, _ in broken] == [1]


def _copy(train_state: TrainState) -> dict[str, torch.Tensor]:
    state = train_state.detector.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if tensor.is_floating_point()}


def _curve(train_state: TrainState, recipe: Recipe) -> list[float]:
    steps = [event for event in train(recipe, train_state, Squares()) if isinstance(event, Step)]
    return [float(sum(step.losses.values())) for step in steps]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_precision_and_layout_learns(precision: Any, channels_last: bool) -> None:
    recipe = changed(epochs=8, closing=None, optimizer=Sgd(lr_per_image=0.02 / 8))
    curve = _curve(train_state_of(recipe, ALONE, precision=precision, channels_last=channels_last), recipe)
    cpu = _curve(train_state_of(recipe), recipe)
    assert curve[0] == pytest.approx(cpu[0], rel=2e-2)
    assert sum(curve[-3:]) < 0.9 * sum(curve[:3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler
def test_a_compiled_network_has_the_same_losses() -> None:
    recipe = changed(epochs=2, closing=None)
    curves = [_curve(train_state_of(recipe, ALONE, precision="fp32", compile=on), recipe) for on in (False, True)]
    torch._dynamo.reset()
    assert curves[1][:2] == pytest.approx(curves[0][:2], rel=1e-3)
    assert sum(curves[1]) == pytest.approx(sum(curves[0]), rel=0.05)


def test_the_deterministic_mode_gives_the_same_numbers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    recipe = changed(epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels without a deterministic form
        curves = [_curve(train_state_of(recipe, ALONE, deterministic=True), recipe) for _ in range(2)]
    assert curves[0] == curves[1]


def command_line(scenes: Path, out: Path, *arguments: str) -> int:
    return run(["train", str(scenes), "--workers", "2", "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the device that is chosen by itself, at its own precision; beside it the recipe."""
    folder = tmp_path_factory.mktemp("trained")
    write_yaml(folder / "narrow.yaml", to_plain(narrow_recipe("yolox-nano", multiscale=None)))
    assert command_line(scenes, folder / "run", "--recipe", str(folder / "narrow.yaml"), "--epochs", "3") == 0
    return folder


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_says_where_it_ran_and_its_weights_serve_the_cpu(trained: Path, scenes: Path, tmp_path: Path) -> None:
    rows = _rows(trained / "run")
    assert len(rows) == 3 and all(math.isfinite(float(row["loss/total"])) for row in rows)
    assert torch.cuda.get_device_name() in (trained / "run" / "report.html").read_text()
    weights = trained / "run" / "last.safetensors"
    assert all(tensor.device.type == "cpu" for tensor in restore(weights).state_dict().values())
    pixels = torch.rand(2, 3, 64, 64) * 255
    with torch.inference_mode():
        here, there = (restore(weights).eval().to(device)(pixels.to(device)) for device in ("cpu", GPU))
    torch.testing.assert_close(there.boxes.cpu(), here.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(there.classes.cpu(), here.classes, rtol=1e-3, atol=1e-3)
    assert run(["val", str(scenes), "--model", str(weights), "--half", "--json", str(tmp_path / "half.json")]) == 0
    assert score(tmp_path / "half.json") >= 0


def score(path: Path) -> float:
    return float(json.loads(path.read_text())["stats"]["AP"])


def test_an_interrupted_run_goes_on(
    trained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    update = TrainState.update

    def interrupting(train_state: TrainState, loss: torch.Tensor) -> None:
        update(train_state, loss)
        taken.append(train_state.steps)
        if train_state.steps == 11:  # in the second epoch of eight steps
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainState, "update", interrupting)
    recipe = ("--recipe", str(trained / "narrow.yaml"), "--epochs", "3")
    assert command_line(scenes, tmp_path / "run", *recipe) == 130
    monkeypatch.undo()
    assert taken[-1] < 24
    assert command_line(scenes, tmp_path / "run", "--resume") == 0
    found, wanted = (_rows(folder / "run") for folder in (tmp_path, trained))
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    for one, other in zip(found, wanted, strict=True):  # on a GPU sums come out in any order
        assert float(one["loss/total"]) == pytest.approx(float(other["loss/total"]), rel=0.1)


@pytest.mark.parametrize(
    "flags",
    [
        ("--precision", "bf16"),
        ("--precision", "fp32", "--layout", "contiguous"),
        ("--batch", "auto"),
        ("--cache", "ram"),
        pytest.param(("--compile",), marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]),
    ],
    ids=" ".join,
)
def test_a_training_with_the_flags_of_a_gpu(
    flags: tuple[str, ...], trained: Path, scenes: Path, tmp_path: Path
) -> None:
    recipe = ("--recipe", str(trained / "narrow.yaml"))
    assert command_line(scenes, tmp_path / "run", *recipe, "--epochs", "1", *flags) == 0
    assert restore(tmp_path / "run" / "last.safetensors").class_names


@needs_shared
def test_official_weights_score_as_on_the_cpu(tmp_path: Path) -> None:
    """YOLOX-Nano on coco_mini's validation images: float32 here, where the reference has AP 0.3202; and float16."""
    weights = str(reference("yolox") / "yolox_nano.onnx")
    for name, flags, tolerance in (("single", (), 1e-3), ("half", ("--half",), 3e-3)):
        out = tmp_path / f"{name}.json"
        arguments = [str(data("coco_mini")), "--model", "yolox-nano", "--weights", weights, "--device", "cuda"]
        assert run(["val", *arguments, *flags, "--json", str(out)]) == 0
        assert score(out) == pytest.approx(0.3202, abs=tolerance)
