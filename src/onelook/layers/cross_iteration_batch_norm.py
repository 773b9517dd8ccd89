"""Cross-iteration batch normalisation (CBN, Yao et al. 2021)."""

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
