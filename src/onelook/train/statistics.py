"""Batch norm of folded weights: its real statistics are measured before it is trained.

Weights whose batch norm was folded away (exported files) come back with an identity in its place. That is right for
detecting, but in training a batch norm divides by the statistics of the batch, so the first step would throw away the
scale of every feature. Measuring the statistics and changing gain and bias to match gives the same function in
evaluation, and nearly the same in training: fine-tuning starts where the weights left off.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Moments:
    """Mean and variance of what enters one batch norm, channel by channel, over all images seen."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.sum = torch.zeros(channels, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.sum)
        self.count = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        self.sum += x.sum(axes)
        self.squares += (x * x).sum(axes)
        self.count += x.numel() // x.shape[1]

    def result(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean * mean).clamp_(min=0.0)


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Sets every batch norm's statistics to those of some batches, and its gain and bias so that nothing changes.

    batches: images (B, 3, H, W) as the model takes them, a few hundred images at most are needed. Returns how many
    images were looked at; with none, or without batch norms, the model stays as it is. The model's answers in
    evaluation are the same up to rounding (a channel that never varies gets a gain as small as its deviation).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
    moments = [_Moments(norm.num_features, norm.weight.device) for norm in norms]
    hooks = [norm.register_forward_pre_hook(moment) for norm, moment in zip(norms, moments)]
    was_training = model.training
    model.eval()
    images = 0
    try:
        for batch in batches:
            model(batch)
            images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    for norm, moment in zip(norms, moments):
        if moment.count:
            _rescale(norm, *moment.result())
    return images


def _rescale(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """The same affine function of x, with other statistics inside."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() + scale * (mean - norm.running_mean.double())
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
