"""Batch norm whose statistics come from more images than one pass of the network sees.

Both replace `nn.BatchNorm2d` in training only: parameters, running statistics and their names stay, and in evaluation
they are plain batch norm. What they remember between passes are buffers that no weights file holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from onelook.ops.reduce import num_processes, sum_over_processes


@dataclass(frozen=True)
class Cmbn:
    """Cross mini-batch normalisation (YOLOv4 sec. 3.3, fig. 4): statistics over the passes of a step so far.

    The weights do not change between these passes, so that the last one is normalised exactly as plain batch norm over
    all of them would. With one pass a step it is plain batch norm. Nothing is remembered from one step to the next.
    """

    def convert(self, model: nn.Module, *, across_processes: bool = False) -> None:
        """Makes every batch norm of a model one across passes, and perhaps processes, in place."""
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = CrossMiniBatchNorm
                cast(CrossMiniBatchNorm, module).across_processes = across_processes
                like = next(iter(module.buffers()))
                for name, shape in (("passes", ()), ("mean", like.shape), ("variance", like.shape)):
                    module.register_buffer(name, torch.zeros(shape, device=like.device), persistent=False)


class CrossMiniBatchNorm(nn.BatchNorm2d):
    """What `Cmbn` makes of a batch norm. `begin_step` before the passes of each step.

    Gradients flow through the present pass's part of the statistics. (Darknet's backward treats them as if they were
    this pass's alone.) Running statistics move with every pass, as with plain batch norm.
    """

    across_processes: bool
    passes: Tensor
    mean: Tensor
    variance: Tensor

    def begin_step(self) -> None:
        """Forgets the passes so far."""
        for buffer in (self.passes, self.mean, self.variance):
            buffer.zero_()

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        count = torch.full_like(self.passes, input.numel() / input.shape[1])
        if self.across_processes and num_processes() > 1:
            count = sum_over_processes(count)
            mean = sum_over_processes(input.float().sum((0, 2, 3))) / count
            variance = sum_over_processes((input.float() - mean[:, None, None]).square().sum((0, 2, 3))) / count
        else:
            variance, mean = torch.var_mean(input.float(), (0, 2, 3), correction=0)
        share = 1 / (self.passes + 1)
        gap = mean - self.mean
        # Chan et al. 1979: the moments of a union from those of its parts, without a difference of large squares.
        variance = (1 - share) * self.variance + share * variance + share * (1 - share) * gap.square()
        mean = self.mean + share * gap
        with torch.no_grad():
            self.passes += 1
            self.mean.copy_(mean)
            self.variance.copy_(variance)
            update_running(self, mean, variance, self.passes * count)
        return normalise(self, input, mean, variance)


def update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Moves running statistics as PyTorch does; variance: biased, of `count` values a channel."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1.0 / norm.num_batches_tracked
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((variance * (count / (count - 1).clamp(min=1))).to(norm.running_var.dtype), share)


def normalise(norm: nn.BatchNorm2d, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(B, C, H, W) with these statistics, then the norm's gain and bias; computed in float32, in the input's type."""
    gain = (variance + norm.eps).rsqrt()
    bias = -mean * gain
    if norm.affine:
        gain, bias = gain * norm.weight, bias * norm.weight + norm.bias
    return (input.float() * gain[:, None, None] + bias[:, None, None]).to(input.dtype)
