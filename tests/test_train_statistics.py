"""Measured batch-norm statistics change no answer, and let training start where folded weights left off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onelook.train.statistics import measure_statistics


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.SiLU()]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(5)
                layer.bias.uniform_(-3, 3)
    return model


def images(count: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, 20, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 4


def test_answers_in_evaluation_stay_the_same() -> None:
    model, x = network().eval(), images()
    before = model(x)
    assert measure_statistics(model, x.split(4)) == 16
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
    assert not model.training


def test_training_gives_what_evaluation_gave() -> None:
    model, x = network(), images()
    before = model.eval()(x)
    off = (model.train()(x) - before).abs().mean()
    again = network()
    measure_statistics(again, [x])
    now = (again.train()(x) - before).abs().mean()
    assert now < 1e-3 * off


def test_statistics_are_those_of_all_batches() -> None:
    model, x = network(), images()
    measure_statistics(model, x.split(4))
    entering = model[0](x)
    torch.testing.assert_close(model[1].running_mean, entering.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, entering.var((0, 2, 3), correction=0))


@pytest.mark.parametrize("batches", [[], [torch.full((2, 3, 20, 24), 3.0, dtype=torch.float64)]], ids=["none", "flat"])
def test_nothing_breaks_without_images_or_contrast(batches: list[torch.Tensor]) -> None:
    model = network().eval()
    x = batches[0] if batches else images(2)
    before = model(x)
    assert measure_statistics(model, batches) == 2 * len(batches)
    torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
