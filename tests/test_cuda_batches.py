"""On a GPU: batches that are copied or made beside the step before, and steps that are one CUDA graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graph_step import GraphStep
from onelook.augment.yolox import YOLOX_PAPER
from onelook.data import open_dataset
from onelook.data.batch import collate_planned
from onelook.data.loader import Loader
from onelook.data.synthetic import Scenes, write_synthetic
from onelook.data.training_images import DrawImages, TrainingImages
from onelook.networks.build import build
from onelook.training.device_batches import DeviceBatches
from onelook.training.loop import Step, train
from onelook.training.train_state import RuntimeOptions, TrainState
from test_cuda import ALONE, GPU, OBJECTS, ONE_OF_EACH, PRECISIONS, as_exact_as_the_cpu, command_line, narrow_recipe
from test_device_augment import AUGMENTS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]
__all__ = ["as_exact_as_the_cpu"]  # a fixture of every test here


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 16, "val": 8}
    return write_synthetic(tmp_path_factory.mktemp("scenes"), Scenes(size=(96, 96), classes=3), counts)


@pytest.mark.parametrize("name", AUGMENTS)
def test_images_made_on_a_gpu_are_those_made_on_a_cpu(name: str, scenes: Path) -> None:
    augment, images = AUGMENTS[name], TrainingImages(open_dataset(scenes, "train"), np.arange(16))
    draw, rows = DrawImages(images, (96, 128)), tuple(range(6))
    planned = [augment.plan(images.sample(row), draw, np.random.default_rng((1, row))) for row in rows]
    batch = collate_planned(planned, rows, None).images
    here, there = batch.render(), batch.to(GPU).render()
    assert there.device.type == "cuda" and there.is_contiguous(memory_format=torch.channels_last)
    difference = (here.int() - there.cpu().int()).abs()
    # Another order of operations moves a pixel beside a seam to the other side, and a hue by one step.
    assert (difference > 2).float().mean() < 1e-3 and difference.float().mean() < 0.05


def test_batches_that_are_ahead_are_those_of_the_loader(scenes: Path) -> None:
    """While the device is busy, so that a copy that is not waited for would be seen."""
    dataset = open_dataset(scenes, "train")
    with Loader(dataset, (64, 64), 4, pin=True) as loader:
        expected = list(loader.epoch(0, YOLOX_PAPER, 0))
        found = []
        for batch in DeviceBatches(loader, GPU).epoch(0, YOLOX_PAPER, 0):
            busy = torch.rand(2048, 2048, device=GPU)
            for _ in range(20):
                busy = busy @ busy / 2048
            found.append((batch.images.clone(), batch.targets.boxes.clone(), batch.indices, busy))
    assert [one[2] for one in found] == [batch.indices for batch in expected]
    for (images, boxes, *_), batch in zip(found, expected, strict=True):
        assert torch.equal(images.cpu(), batch.images) and torch.equal(boxes.cpu(), batch.targets.boxes)


@pytest.mark.parametrize("plans", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_with_batches_that_are_ahead_never_waits(plans: bool, precision: Any, scenes: Path) -> None:
    """From the third step on, with the real loader and the closing phase."""
    recipe = narrow_recipe("yolox-nano", multiscale=None)
    dataset = open_dataset(scenes, "train")
    train_state = TrainState(recipe, build(recipe.model, dataset.names), ALONE, RuntimeOptions(precision=precision))
    losses = []
    with Loader(dataset, (64, 64), 4, epochs=3, max_labels=recipe.max_labels, pin=True, plans=plans) as loader:
        for number, event in enumerate(train(recipe, train_state, DeviceBatches(loader, GPU))):
            if isinstance(event, Step):
                losses.append(torch.stack(list(event.losses.values())))
            torch.cuda.set_sync_debug_mode("error" if number >= 1 else "default")
    torch.cuda.set_sync_debug_mode("default")
    assert len(losses) == 12 and all(loss.isfinite().all() and loss.sum() > 0 for loss in losses)


@pytest.mark.parametrize("flags", [("--augment-on", "device"), ("--augment-on", "device", "--cache", "ram")])
def test_a_training_augmented_on_the_device(flags: tuple[str, ...], scenes: Path, tmp_path: Path) -> None:
    arguments = ["--model", "yolox-nano", "--size", "64", "--batch", "4", "--epochs", "2"]
    assert command_line(scenes, tmp_path / "run", *arguments, *flags) == 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_captured_step_has_the_losses_of_an_eager_one(name: str) -> None:
    """In float32, without a change of the weights; then some steps with one, which must stay finite."""
    recipe = narrow_recipe(name, multiscale=None)
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(2, 3, 64, 64, generator=generator) * 255).byte().to(GPU)
    torch.manual_seed(0)
    train_state = TrainState(recipe, build(recipe.model, ("a", "b", "c")), ALONE, RuntimeOptions(precision="fp32"))
    for group in train_state.optimizer.param_groups:
        group["lr"] = 0.0
    train_state.set_train_mode()
    targets = OBJECTS.to(GPU)
    eager = {one: value.item() for one, value in train_state.step(images, targets, (64, 64), recipe.loss).items()}
    step = GraphStep(recipe, train_state, images, targets)
    captured = {one: value.item() for one, value in step().items()}
    assert captured == pytest.approx(eager, rel=1e-3)
    for group in train_state.optimizer.param_groups:
        group["lr"] = 1e-4
    before = [parameter.detach().clone() for parameter in train_state.detector.parameters()]
    for _ in range(3):
        losses = step()
    assert all(value.isfinite() for value in losses.values())
    assert not all(torch.equal(one, other) for one, other in zip(before, train_state.detector.parameters()))
