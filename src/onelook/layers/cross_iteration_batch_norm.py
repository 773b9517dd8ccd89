"""CBN, cross-iteration batch normalisation (Yao et al. 2021): batch norm over the last mini-batches.

It replaces `nn.BatchNorm2d` in training only: parameters, running statistics and their names stay, and in evaluation it
is plain batch norm. Its statistics of earlier mini-batches are buffers that are not saved in weights files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from onelook.layers.cross_mini_batch_norm import normalise, update_running


@dataclass(frozen=True)
class Cbn:
    """CBN (Yao et al. 2021): batch norm with the statistics of the last `window` mini-batches, with the current one.

    Earlier mini-batches had other weights: their moments are corrected to first order in the weights of the preceding
    convolution (eq. 5 to 8). The stored gradients take 2 * (window - 1) times the memory of the network's weights.
    burn_in: number of mini-batches with plain batch norm at the start, while weights still change too fast.

    Batch norms without a preceding convolution in the same module stay plain.
    """

    window: int = 4
    burn_in: int = 0

    def __post_init__(self) -> None:
        if self.window < 2 or self.burn_in < 0:
            raise ValueError(f"window is at least 2 and burn_in at least 0: not {self.window} and {self.burn_in}")

    def convert(self, model: nn.Module, *, across_processes: bool = False) -> None:
        """Converts every batch norm that follows a convolution, in place; `across_processes` has no effect here."""
        for convolution, norm in list(_pairs(model)):
            past, weight = self.window - 1, convolution.weight
            norm.__class__ = CrossIterationNorm
            norm = cast(CrossIterationNorm, norm)
            norm.source, norm.burn_in = (convolution,), self.burn_in  # in a tuple: it is no child of the norm
            norm.register_buffer("num_batches", weight.new_zeros(()), persistent=False)
            for name in ("mean", "square"):
                norm.register_buffer(f"{name}_offsets", weight.new_zeros(past, len(weight)), persistent=False)
                norm.register_buffer(f"{name}_slopes", weight.new_zeros(past, *weight.shape), persistent=False)


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yields every batch norm with the convolution directly before it among the children of the same module."""
    for parent in model.modules():
        for first, second in pairwise(list(parent.children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                plain = type(second) is nn.BatchNorm2d and second.num_features == first.out_channels
                yield from ((first, second),) if plain else ()


class CrossIterationNorm(nn.BatchNorm2d):
    """A batch norm converted by `Cbn`.

    For every stored mini-batch and each channel it holds the moments E[x] and E[x^2] as linear functions of the
    convolution's kernel: slope times kernel plus offset.
    """

    source: tuple[nn.Conv2d]
    burn_in: int
    num_batches: Tensor
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
        known = ((places < self.num_batches) & (self.num_batches >= self.burn_in)).to(x.dtype)[:, None]
        count = 1 + known.sum()
        joint_mean = (mean + (known * past_means).sum(0)) / count
        joint_square = (torch.maximum(square, mean.square()) + (known * past_squares).sum(0)) / count
        variance = (joint_square - joint_mean.square()).clamp(min=0.0)
        self._store_moments(mean, square, kernel)
        with torch.no_grad():
            update_running(self, joint_mean, variance, count * (input.numel() // input.shape[1]))
        return normalise(self, input, joint_mean, variance)

    @torch.compiler.disable
    def _store_moments(self, mean: Tensor, square: Tensor, kernel: Tensor) -> None:
        place = (self.num_batches.long() % len(self.mean_offsets)).reshape(1)
        for value, offsets, slopes in (
            (mean, self.mean_offsets, self.mean_slopes),
            (square, self.square_offsets, self.square_slopes),
        ):
            slope = torch.zeros_like(kernel)
            if value.requires_grad and kernel.requires_grad:
                # A channel's moment depends on its own kernel only, so the gradient of the sum contains all of them.
                (slope,) = torch.autograd.grad(value.sum(), kernel, retain_graph=True)
            with torch.no_grad():
                offset = value - (slope * kernel).flatten(1).sum(1)
                slopes.index_copy_(0, place, slope[None].to(slopes.dtype))
                offsets.index_copy_(0, place, offset[None].to(offsets.dtype))
        self.num_batches += 1


def _at(offsets: Tensor, slopes: Tensor, kernel: Tensor) -> Tensor:
    """Returns the moments (past, C) of earlier mini-batches, corrected to this kernel to first order."""
    return offsets + (slopes * kernel.detach()).flatten(2).sum(2)
