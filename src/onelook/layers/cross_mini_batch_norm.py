"""CmBN, cross mini-batch normalisation (YOLOv4 sec. 3.3): batch norm over the mini-batches of one optimizer step.

It replaces `nn.BatchNorm2d` in training only: parameters, running statistics and their names stay, and in evaluation it
is plain batch norm. Its statistics between mini-batches are buffers that are not saved in weights files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from onelook.ops.reduce import num_processes, sum_over_processes


@dataclass(frozen=True)
class Cmbn:
    """CmBN (YOLOv4 sec. 3.3, fig. 4): batch norm with the statistics of the mini-batches of a step so far.

    The weights do not change between the mini-batches of a step, so the last one is normalised exactly as by batch norm
    over all of them. With one mini-batch in a step it is plain batch norm. Every step starts with new statistics.
    """

    def convert(self, model: nn.Module, *, across_processes: bool = False) -> None:
        """Converts every batch norm of a model in place; with `across_processes` statistics are synchronised."""
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = CrossMiniBatchNorm
                cast(CrossMiniBatchNorm, module).across_processes = across_processes
                like = next(iter(module.buffers()))
                for name, shape in (("num_batches", ()), ("mean", like.shape), ("variance", like.shape)):
                    module.register_buffer(name, torch.zeros(shape, device=like.device), persistent=False)


class CrossMiniBatchNorm(nn.BatchNorm2d):
    """A batch norm converted by `Cmbn`. Call `begin_step` before the mini-batches of each step.

    Gradients flow through the current mini-batch's part of the statistics. (Darknet's backward pass treats the
    statistics as those of the current mini-batch alone.) Every mini-batch updates the running statistics.
    """

    across_processes: bool
    num_batches: Tensor
    mean: Tensor
    variance: Tensor

    def begin_step(self) -> None:
        """Resets the statistics of the step."""
        for buffer in (self.num_batches, self.mean, self.variance):
            buffer.zero_()

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        count = torch.full_like(self.num_batches, input.numel() / input.shape[1])
        if self.across_processes and num_processes() > 1:
            count = sum_over_processes(count)
            mean = sum_over_processes(input.float().sum((0, 2, 3))) / count
            variance = sum_over_processes((input.float() - mean[:, None, None]).square().sum((0, 2, 3))) / count
        else:
            variance, mean = torch.var_mean(input.float(), (0, 2, 3), correction=0)
        share = 1 / (self.num_batches + 1)
        gap = mean - self.mean
        # Chan et al. 1979: the moments of a union computed from its parts, without a difference of large squares.
        variance = (1 - share) * self.variance + share * variance + share * (1 - share) * gap.square()
        mean = self.mean + share * gap
        with torch.no_grad():
            self.num_batches += 1
            self.mean.copy_(mean)
            self.variance.copy_(variance)
            update_running(self, mean, variance, self.num_batches * count)
        return normalise(self, input, mean, variance)


def update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Updates running statistics as PyTorch does.  variance: biased, over `count` values of each channel."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1.0 / norm.num_batches_tracked
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((variance * (count / (count - 1).clamp(min=1))).to(norm.running_var.dtype), share)


def normalise(norm: nn.BatchNorm2d, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalises (B, C, H, W) and applies the norm's gain and bias, in float32; the result has the input's dtype."""
    gain = (variance + norm.eps).rsqrt()
    bias = -mean * gain
    if norm.affine:
        gain, bias = gain * norm.weight, bias * norm.weight + norm.bias
    return (input.float() * gain[:, None, None] + bias[:, None, None]).to(input.dtype)
