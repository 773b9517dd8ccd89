"""Measured batch-norm statistics change no answer, and let training start where folded weights left off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onelook.training.unfold_batch_norm import enlarge_small_filters, measure_statistics


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


def test_outputs_in_evaluation_stay_the_same() -> None:
    model, x = network().eval(), images()
    before = model(x)
    assert measure_statistics(model, x.split(4)) == 16
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
    assert not model.training


def test_outputs_in_training_are_near_those_in_evaluation() -> None:
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


def losses(model: nn.Module, x: torch.Tensor):
    return [lambda part=part: (model(part) - 1).square().sum() for part in x.split(4)]


def pace(model: nn.Module, x: torch.Tensor, index: int) -> float:
    """|gradient| / |filter| of a layer, root mean square over the batches."""
    filters, squares = model[index].weight, []
    for loss in losses(model, x):
        model.zero_grad()
        loss().backward()
        squares.append(filters.grad.square().sum())
    return float(torch.stack(squares).mean().sqrt() / filters.detach().norm())


def small_filters() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-9), nn.SiLU(), nn.Conv2d(8, 4, 3)]
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    return model


def test_small_filters_are_enlarged_to_the_gradient_ratio_without_changed_outputs() -> None:
    model, x = small_filters(), images() * 60
    assert pace(model.train(), x, 0) > 10
    measure_statistics(model, [x])
    before, statistics = model.eval()(x), model[1].running_mean.clone()
    bias = model[3].weight.clone()
    grown = enlarge_small_filters(model.eval(), losses(model, x), max_ratio=0.5)
    assert set(grown) == {"0"} and grown["0"] > 1
    torch.testing.assert_close(model(x), before, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model[1].running_mean, statistics * grown["0"], rtol=1e-6, atol=1e-9)
    assert torch.equal(model[3].weight, bias) and all(one.grad is None for one in model.parameters())
    assert pace(model.train(), x, 0) == pytest.approx(0.5, rel=0.01)


def test_filters_below_the_gradient_ratio_do_not_change() -> None:
    model, x = small_filters(), images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert enlarge_small_filters(model, losses(model, x), max_ratio=1e9) == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
