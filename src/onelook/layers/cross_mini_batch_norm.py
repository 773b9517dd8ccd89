"""Batch norm whose statistics come from more images than one pass of the network sees.

Both replace `nn.BatchNorm2d` in training only: parameters, running statistics and their names stay, and in evaluation
they are plain batch norm. What they remember between passes are buffers that no weights file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
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


@dataclass(frozen=True)
class Cbn:
    """Cross-iteration batch norm (Yao et al. 2021): statistics over the last `window` passes, this one included.

    Earlier passes had other weights: their moments are corrected to first order in the weights of the convolution just
    before (eq. 5 to 8), whose slopes are remembered: 2 * (window - 1) times the weights of the network in memory.
    burn_in: passes before which it is plain batch norm, while weights still change too fast.

    Batch norms without a convolution just before them in the same module stay plain.
    """

    window: int = 4
    burn_in: int = 0

    def __post_init__(self) -> None:
        if self.window < 2 or self.burn_in < 0:
            raise ValueError(f"window is at least 2 and burn_in at least 0, not {self.window} and {self.burn_in}")

    def convert(self, model: nn.Module, *, across_processes: bool = False) -> None:
        """Makes every batch norm that follows a convolution one across iterations, in place; never across processes."""
        for convolution, norm in list(_pairs(model)):
            past, weight = self.window - 1, convolution.weight
            norm.__class__ = CrossIterationNorm
            norm = cast(CrossIterationNorm, norm)
            norm.source, norm.burn_in = (convolution,), self.burn_in  # in a tuple: it is no child of the norm
            norm.register_buffer("passes", weight.new_zeros(()), persistent=False)
            for name in ("mean", "square"):
                norm.register_buffer(f"{name}_offsets", weight.new_zeros(past, len(weight)), persistent=False)
                norm.register_buffer(f"{name}_slopes", weight.new_zeros(past, *weight.shape), persistent=False)


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every batch norm with the convolution just before it among the children of the same module."""
    for parent in model.modules():
        for first, second in pairwise(list(parent.children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                plain = type(second) is nn.BatchNorm2d and second.num_features == first.out_channels
                yield from ((first, second),) if plain else ()


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


class CrossIterationNorm(nn.BatchNorm2d):
    """What `Cbn` makes of a batch norm.

    Of every remembered pass it holds, for each channel, the moments E[x] and E[x^2] as linear functions of the
    convolution's kernel: slope times kernel plus offset.
    """

    source: tuple[nn.Conv2d]
    burn_in: int
    passes: Tensor
    mean_offsets: Tensor
    mean_slopes: Tensor
    square_offsets: Tensor
    square_slopes: Tensor

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        mean, square = x.mean((0, 2, 3)), x.square().mean((0, 2, 3))
        kernel = self.source[0].weight
        past_means = _at(self.mean_offsets, self.mean_slopes, kernel)
        past_squares = torch.maximum(_at(self.square_offsets, self.square_slopes, kernel), past_means.square())
        places = torch.arange(len(past_means), device=x.device)
        known = ((places < self.passes) & (self.passes >= self.burn_in)).to(x.dtype)[:, None]
        count = 1 + known.sum()
        joint_mean = (mean + (known * past_means).sum(0)) / count
        joint_square = (torch.maximum(square, mean.square()) + (known * past_squares).sum(0)) / count
        variance = (joint_square - joint_mean.square()).clamp(min=0.0)
        self._remember(mean, square, kernel)
        with torch.no_grad():
            update_running(self, joint_mean, variance, count * (input.numel() // input.shape[1]))
        return normalise(self, input, joint_mean, variance)

    @torch.compiler.disable
    def _remember(self, mean: Tensor, square: Tensor, kernel: Tensor) -> None:
        place = (self.passes.long() % len(self.mean_offsets)).reshape(1)
        for value, offsets, slopes in (
            (mean, self.mean_offsets, self.mean_slopes),
            (square, self.square_offsets, self.square_slopes),
        ):
            slope = torch.zeros_like(kernel)
            if value.requires_grad and kernel.requires_grad:
                # A channel's moment depends on its own kernel only, so that the sum's gradient holds all of them.
                (slope,) = torch.autograd.grad(value.sum(), kernel, retain_graph=True)
            with torch.no_grad():
                offset = value - (slope * kernel).flatten(1).sum(1)
                slopes.index_copy_(0, place, slope[None].to(slopes.dtype))
                offsets.index_copy_(0, place, offset[None].to(offsets.dtype))
        self.passes += 1


def _at(offsets: Tensor, slopes: Tensor, kernel: Tensor) -> Tensor:
    """(past, C) moments of earlier passes as they would be with this kernel, to first order."""
    return offsets + (slopes * kernel.detach()).flatten(2).sum(2)


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
