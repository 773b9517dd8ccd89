"""The loop: it learns, resumes bit for bit, survives numbers that are none, and does what its settings say."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product

import pytest
import torch

from descent import share_of_the_fall
from onelook.errors import ConfigError, UserError
from onelook.training.batch_norm_snapshot import BatchNormSnapshot
from onelook.training.checkpoint import load_checkpoint, read_notes, save_checkpoint
from onelook.training.loop import Epoch, Step, train
from onelook.training.meter import LossMeter
from onelook.training.multiscale import MultiScale
from onelook.training.optimizer import AdamW, Sgd
from onelook.training.recipe import Recipe
from onelook.training.schedule import Constant
from onelook.training.train_state import TrainState
from training import LOSS, RECIPE, Squares, changed, detector_of, train_state_of

pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(train_state):
    return {
        **train_state.detector.state_dict(),
        **{f"ema.{n}": t for n, t in train_state.evaluated_model.state_dict().items()},
    }


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def run(recipe, train_state, batches=None, stop_after=None):
    """The losses of every step; stops between two steps where set."""
    curve = []
    for event in train(recipe, train_state, batches or Squares()):
        if isinstance(event, Step):
            curve.append(float(sum(event.losses.values())))
            if len(curve) == stop_after:
                break
    return curve


def test_the_loop_yields_every_step_and_every_epoch_and_goes_against_the_gradient():
    """The first step moves the weights by minus the rate times their gradient, which lowers the loss (in float64)."""
    plain = Sgd(lr_per_image=0.02 / 8, momentum=0.0, nesterov=False, weight_decay=0.0)
    recipe = changed(epochs=6, optimizer=plain, schedule=Constant())
    train_state, gradients = train_state_of(recipe), []
    named = dict(train_state.detector.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}

    def keep(*_):
        gradients.append({name: parameter.grad.clone() for name, parameter in named.items()})

    handle = train_state.optimizer.register_step_pre_hook(keep)
    events = []
    for event in train(recipe, train_state, Squares()):
        if not events:
            handle.remove()
            assert event.rate > 0
            for name, gradient in gradients[0].items():
                torch.testing.assert_close(named[name].detach(), before[name] - event.rate * gradient)
        events.append(event)
    steps = [event for event in events if isinstance(event, Step)]
    assert [event.number for event in steps] == list(range(18))
    assert [event.number for event in events if isinstance(event, Epoch)] == list(range(6))
    assert [event.ends_epoch for event in steps] == [False, False, True] * 6
    assert sorted(steps[0].losses) == ["box", "classes", "objectness"]
    assert sorted(steps[-1].losses) == ["box", "classes", "l1", "objectness"]
    assert sorted(row for step in steps[:3] for row in step.images) == list(range(24))
    detector, batch = detector_of(recipe).train().double(), Squares().take(range(8))
    images, targets = batch.images.double(), batch.targets

    def loss():
        return torch.stack(list(recipe.loss(detector(images), targets).values())).sum()

    assert share_of_the_fall(loss, detector.parameters()) > 0


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        changed(optimizer=AdamW(), multiscale=MultiScale(0.5, 1.5, every=2), accumulate=2, clip=1.0),
        changed(ema=None, freeze=("backbone.*",)),
    ],
    ids=["sgd", "adamw", "frozen"],
)
@pytest.mark.parametrize("stop", [1, 4])  # in the first epoch; in the closing one
def test_a_resumed_training_is_bit_equal_to_an_uninterrupted_one(tmp_path, recipe, stop):
    recipe = replace(recipe, epochs=2)
    whole, broken = train_state_of(recipe), train_state_of(recipe)
    batches = Squares(batch=8 // recipe.accumulate)
    curve = run(recipe, whole, batches)
    before = run(recipe, broken, batches, stop_after=stop)
    save_checkpoint(tmp_path / "state.pt", broken, {"said": [stop]})
    fresh = train_state_of(recipe)
    with torch.no_grad():
        next(fresh.detector.parameters()).add_(1)  # whatever it was, the state decides
    assert load_checkpoint(tmp_path / "state.pt", fresh) == {"said": [stop]} == read_notes(tmp_path / "state.pt")
    after = run(recipe, fresh, batches)
    assert before + after == curve
    assert_same(weights_of(whole), weights_of(fresh))


def test_a_damaged_or_other_models_checkpoint_is_an_error(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(UserError, match=r"no '.*state\.pt' to resume"):
        load_checkpoint(path, train_state_of())
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        load_checkpoint(path, train_state_of())
    save_checkpoint(path, train_state_of(), {})
    other = changed(model=RECIPE.model.__class__(depth=0.33, width=0.25, num_classes=3, size=(64, 64)))
    with pytest.raises(UserError, match=r"another model \((size mismatch|Unexpected|Missing)"):
        load_checkpoint(path, train_state_of(other))


@dataclass(frozen=True)
class SumOfBoxes:
    """Not a number where a box is none."""

    name: str = "sum"
    weight: float = 1.0

    @property
    def needs(self):
        return ()

    def __call__(self, pairs):
        return pairs.total(pairs.boxes.sum(-1)) * 1e-3 + pairs.targets.boxes.sum() * 1e-6


def test_a_loss_that_is_not_finite_changes_no_weight_and_names_its_images():
    recipe = changed(epochs=1, schedule=Constant(), loss=LOSS.with_terms(SumOfBoxes()), closing=None)
    train_state, meter = train_state_of(recipe), LossMeter()
    states = [{name: tensor.clone() for name, tensor in train_state.detector.state_dict().items()}]
    broken = []
    for event in train(recipe, train_state, Squares(broken=5)):
        if isinstance(event, Step):
            states.append({name: tensor.clone() for name, tensor in train_state.detector.state_dict().items()})
            meter.add(event)
            broken += meter.read()
    assert len(broken) == 1
    step, losses = broken[0]
    assert 5 in step.images and len(step.images) == 8
    assert any(math.isnan(value) for value in losses.values())
    floats = {name for name, tensor in states[0].items() if tensor.is_floating_point()}
    for number in range(3):
        same = all(torch.equal(states[number][name], states[number + 1][name]) for name in floats)
        assert same == (number == step.number)
    assert meter.steps == 2 and meter.means()["total"] < 1e3


class BadGradient:
    """Makes the gradient of a parameter infinite, or none, in one backward pass (0-based)."""

    def __init__(self, train_state: TrainState, at: int, value: float = math.inf) -> None:
        self.at, self.value, self.passes = at, value, 0
        next(train_state.detector.parameters()).register_hook(self)

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return torch.full_like(gradient, self.value) if self.passes == self.at + 1 else gradient


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_changes_no_weight_though_the_loss_is(clip, value):
    recipe = changed(epochs=1, schedule=Constant(), closing=None, clip=clip)
    train_state, meter = train_state_of(recipe), LossMeter()
    BadGradient(train_state, at=1, value=value)
    states = [{name: tensor.clone() for name, tensor in train_state.detector.state_dict().items()}]
    broken = []
    for event in train(recipe, train_state, Squares()):
        if isinstance(event, Step):
            states.append({name: tensor.clone() for name, tensor in train_state.detector.state_dict().items()})
            meter.add(event)
            broken += meter.read()
    assert [step.number for step, _ in broken] == [1]
    assert all(math.isfinite(value) for value in broken[0][1].values())
    floats = {name for name, tensor in states[0].items() if tensor.is_floating_point()}
    unchanged = [all(torch.equal(one[name], two[name]) for name in floats) for one, two in pairwise(states)]
    assert unchanged == [False, True, False] and meter.steps == 2


def test_batch_norm_statistics_are_restored_on_host_and_device():
    """On an accelerator the choice is the device's own: the same work is tried here on the CPU."""
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(70_000))  # a small and a large one
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    snapshot = BatchNormSnapshot(model)
    for restore, sound in product((snapshot.restore_unless, snapshot.restore_on_device), (False, True)):
        snapshot.save()
        before = [buffer.clone() for buffer in statistics]
        for buffer in statistics:
            buffer.add_(1)
        after = [buffer.clone() for buffer in statistics] if sound else before
        restore(torch.tensor(sound))
        assert all(torch.equal(*pair) for pair in zip(statistics, after))


def test_gradient_accumulation_equals_the_mean_gradient():
    recipe = changed(epochs=1, accumulate=2)
    train_state = train_state_of(recipe)
    steps = [event for event in train(recipe, train_state, Squares(batch=4)) if isinstance(event, Step)]
    assert len(steps) == 3 and [len(step.images) for step in steps] == [8, 8, 8]


def test_frozen_parameters_and_their_statistics_do_not_change():
    recipe = changed(epochs=1, freeze=("backbone.*", "neck.*"))
    train_state = train_state_of(recipe)
    before = {name: tensor.clone() for name, tensor in train_state.detector.state_dict().items()}
    run(recipe, train_state)
    after = train_state.detector.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head"}


def test_an_unknown_freeze_pattern_names_the_nearest_parameter():
    with pytest.raises(ConfigError, match=r"called 'bakbone\.\*'.*backbone\.\*"):
        train_state_of(changed(freeze=("bakbone.*",)))
    with pytest.raises(ConfigError, match="nothing to train"):
        train_state_of(changed(freeze=("*",)))


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_trains_with_losses_in_float32(precision):
    recipe = changed(epochs=1)
    train_state = train_state_of(recipe, precision=precision)
    for event in train(recipe, train_state, Squares()):
        if isinstance(event, Step):
            assert all(value.dtype == torch.float32 and value.isfinite() for value in event.losses.values())
    assert all(p.dtype == torch.float32 for p in train_state.detector.parameters())


def test_the_deterministic_mode_trains_and_gives_the_same_numbers(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back in the end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        curves = [run(changed(epochs=1), train_state_of(deterministic=True)) for _ in range(2)]
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
    assert curves[0] == curves[1]


def test_memory_layouts_agree():
    curves = [run(changed(epochs=1), train_state_of(channels_last=layout)) for layout in (True, False)]
    # Later steps differ more: rounding decides now and then which prior an object gets.
    assert curves[0][:2] == pytest.approx(curves[1][:2], rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("multiscale", [None, MultiScale(0.5, 1.5, every=1)], ids=["one size", "several sizes"])
def test_a_compiled_network_has_the_same_losses(multiscale, monkeypatch):
    """Traced by PyTorch's compiler and run by PyTorch itself: generated code needs a C++ compiler, and rounds anew."""
    compiled = []

    def run_as_traced(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=run_as_traced))
    recipe = changed(epochs=1, closing=None, multiscale=multiscale)
    plain, traced = (run(recipe, train_state_of(recipe, compile=compiles)) for compiles in (False, True))
    torch._dynamo.reset()
    assert compiled and traced == pytest.approx(plain, rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_on_cuda_does_not_synchronise_with_the_device():
    from onelook.training.processes import ProcessGroup

    recipe: Recipe = changed(epochs=3)
    train_state = train_state_of(recipe, ProcessGroup(0, 1, torch.device("cuda")), precision="fp16")

    class Pinned(Squares):
        def take(self, rows):
            batch = super().take(rows)
            boxes, labels, valid = batch.targets.boxes, batch.targets.labels, batch.targets.valid
            targets = type(batch.targets)(boxes.pin_memory(), labels.pin_memory(), valid.pin_memory())
            return type(batch)(batch.images.pin_memory(), targets, batch.indices)

    stream = train(recipe, train_state, Pinned())
    for _ in range(3):  # warm-up: cuDNN chooses, the allocator grows
        next(stream)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            next(stream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
