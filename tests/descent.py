"""Whether a gradient lowers its loss, as a fact: in float64 and by one small step, which no rounding decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def share_of_the_fall(loss: Callable[[], Tensor], parameters: Iterable[nn.Parameter], fall: float = 1e-5) -> float:
    """How much of `fall` the loss falls by, where a step against its gradient lowers it by that to first order.

    1 for a smooth loss; more or less where targets change with the predictions; below 0 for a wrong gradient. The
    parameters are those in float64 that the gradient must reach.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    assert all(parameter.dtype == torch.float64 for parameter in trained)
    before = loss()
    gradients = torch.autograd.grad(before, trained, allow_unused=False)
    assert all(gradient.isfinite().all() for gradient in gradients)
    step = fall / sum(float(gradient.square().sum()) for gradient in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients):
            parameter.sub_(step * gradient)
        return float(before - loss()) / fall
