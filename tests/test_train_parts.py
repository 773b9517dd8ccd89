"""Schedules, optimizers, the weight average and random shapes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onelook.training.ema import Ema, ModelEma
from onelook.training.multiscale import MultiScale, resize_batch
from onelook.training.optimizer import AdamW, Sgd, parameter_groups, set_rates
from onelook.training.schedule import MultiStep, Rates, WarmCosine
from onelook.training.train_state import RuntimeOptions
from onelook.types import Targets

# YOLOX, batch 64, 1849 steps an epoch, 300 epochs: published code, learning rate of a step.
PUBLISHED = [
    (0, 0.0),
    (1, 1.17000083e-10),
    (1849, 4.0e-4),
    (9245, 0.01),
    (9246, 0.00999999999991),
    (92450, 0.009407311254),
    (277350, 0.004983665376),
    (525116, 5.00298980e-4),
    (526965, 5.0e-4),
    (554699, 5.0e-4),
]


@pytest.mark.parametrize(("step", "rate"), PUBLISHED)
def test_warm_cosine_gives_the_published_rates(step: int, rate: float) -> None:
    assert 0.01 * WarmCosine()(step, 1849, 300).scale == pytest.approx(rate, rel=2e-9)


def test_training_without_warm_up_starts_at_the_base_rate() -> None:
    assert WarmCosine(warmup_epochs=0)(0, 100, 30).scale == 1.0


def test_steps_fall_at_their_milestones() -> None:
    schedule = MultiStep(milestones=(0.5, 0.9), factor=0.1, warmup_epochs=1)
    scales = [schedule(step, 10, 10).scale for step in (0, 5, 10, 49, 50, 89, 90)]
    assert scales == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("update", "decay"),
    [(1, 0.0004997750458), (100, 0.0487608214), (2000, 0.6319941347), (10000, 0.9930634006), (50000, 0.9997999999861)],
)
def test_ema_has_the_published_decay(update: int, decay: float) -> None:
    assert Ema().at(update) == pytest.approx(decay, rel=1e-8)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1))


def test_a_late_average_starts_as_a_copy_of_the_weights():
    model = nn.Linear(2, 1, bias=False)
    average = ModelEma(model, Ema(decay=0.75, warmup=0, start=0.5))
    seen = []
    for step in range(4):
        nn.init.constant_(model.weight, 2.0**step)
        average.update(model, step / 4)
        seen.append(float(average.model.weight[0, 0]))
    assert seen == [1, 2, 0.75 * 2 + 0.25 * 4, 0.75 * 2.5 + 0.25 * 8] and average.updates == 2
    with pytest.raises(ValueError, match="start"):
        Ema(start=1.5)


def test_ema_averages_floats_and_leaves_counters() -> None:
    model = network()
    average = ModelEma(model, Ema(decay=0.9, warmup=0))
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(1)
    average.update(model)
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            expected = 0.9 * before[name] + 0.1 * model.state_dict()[name]
            torch.testing.assert_close(value, expected, msg=name)
        else:
            assert torch.equal(value, before[name]), name
    assert not average.model.training
    assert all(not parameter.requires_grad for parameter in average.model.parameters())


def test_weight_decay_is_for_kernels_only_and_frozen_parameters_are_left_out() -> None:
    model = network()
    model[3].bias.requires_grad_(False)
    groups = {group["name"]: group for group in parameter_groups(model, 5e-4)}
    shapes = {name: [tuple(p.shape) for p in group["params"]] for name, group in groups.items()}
    assert shapes == {"norm": [(4,)], "weights": [(4, 3, 3, 3), (2, 4, 1, 1)], "biases": [(4,)]}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "norm": 0.0,
        "weights": 5e-4,
        "biases": 0.0,
    }


@pytest.mark.parametrize("settings", [Sgd(lr_per_image=0.1), AdamW(lr_per_image=0.1)], ids=["sgd", "adamw"])
def test_after_a_skipped_first_step_the_next_equals_a_first_step(settings: Sgd | AdamW) -> None:
    """In float16 the first gradients often overflow; fused optimizers then skip the step."""
    models = [nn.Conv2d(3, 50, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    skipping, straight = (settings.build(model, 1) for model in models)
    assert skipping.defaults["fused"]
    rubbish = [torch.full((50, 3, 3, 3), torch.nan) for _ in range(64)]
    del rubbish  # what an allocator hands out again as it is
    before = [parameter.clone() for parameter in models[0].parameters()]
    for parameter in models[0].parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    skipping.found_inf = torch.ones(())  # type: ignore[attr-defined]  # as a gradient scaler sets it
    skipping.step()
    assert all(torch.equal(one, other) for one, other in zip(before, models[0].parameters()))
    skipping.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    for model, optimizer in zip(models, (skipping, straight)):
        for parameter in model.parameters():
            parameter.grad = torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape)
        optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [Sgd(), AdamW()], ids=["sgd", "adamw"])
def test_rates_are_set_in_the_parameter_groups(settings: Sgd | AdamW) -> None:
    optimizer = settings.build(network(), batch_size=32)
    base = settings.lr_per_image * 32
    assert {group["lr"] for group in optimizer.param_groups} == {base}
    set_rates(optimizer, Rates(0.5, bias_scale=2.0, momentum=0.7), base)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"norm": 0.5 * base, "weights": 0.5 * base, "biases": 2.0 * base}
    assert {group.get("momentum", group.get("betas", (None,))[0]) for group in optimizer.param_groups} == {0.7}


@given(
    step=st.integers(0, 10_000),
    seed=st.integers(0, 2**31),
    base=st.sampled_from([(416, 416), (640, 640), (320, 320), (384, 640)]),
)
def test_sizes_are_a_function_of_seed_and_step(step: int, seed: int, base: tuple[int, int]) -> None:
    shape = MultiScale(low=320 / 416, high=640 / 416)
    size = shape.size(base, seed, step)
    assert size == shape.size(base, seed, step - step % 10)
    assert all(side % 32 == 0 and side > 0 for side in size)
    if step >= 10:
        assert round(base[0] * 320 / 416 / 32) <= size[0] / 32 <= round(base[0] * 640 / 416 / 32)
    else:
        assert size == base


def test_every_size_of_the_range_occurs() -> None:
    sizes = {MultiScale().size((640, 640), 0, step)[0] for step in range(10, 5000, 10)}
    assert sizes == set(range(448, 833, 32))


def test_boxes_are_resized_with_the_image() -> None:
    images = torch.zeros(1, 3, 64, 96)
    images[:, :, 16:32, 24:72] = 1
    targets = Targets(torch.tensor([[[24.0, 16, 72, 32]]]), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1) > 0)
    scaled, moved = resize_batch(images, targets, (128, 288))
    assert moved.boxes.tolist() == [[[72.0, 32.0, 216.0, 64.0]]]
    assert scaled[0, 0, 33:63, 74:214].min() > 0.5
    assert scaled[0, 0].sum().item() == pytest.approx(16 * 48 * 6, rel=0.02)
    assert math.isclose(targets.boxes[0, 0, 0].item(), 24)


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_the_default_layout_is_channels_last_on_cuda_only(device, expected):
    """On a CPU, batch norm of channels-last tensors is much less exact (`benchmarks/layouts.py`)."""
    assert RuntimeOptions().channels_last_on(torch.device(device)) is expected
    assert RuntimeOptions(channels_last=not expected).channels_last_on(torch.device(device)) is not expected
