"""Folds batch norms and per-channel gains into the convolution beside them, in float64; results have its dtype.

Convolutions, batch norm in evaluation and per-channel gains are linear, so their composition is again a convolution,
equal up to rounding. Zero padding is the exception: a constant added *before* a padded convolution is not added to the
padding. So constants are folded only into the convolution before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fold_batch_norm(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns kernel (O, I, h, w) and bias (O,) of one convolution that replaces a convolution and its batch norm.

    Equal in evaluation. Raises ValueError for a norm without running statistics.
    """
    if weight.is_meta:
        return weight, weight.new_empty(len(weight))  # shapes without values: nothing to compute
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    gain = torch.rsqrt(variance.double() + norm.eps)
    shift = -mean.double() * gain
    if norm.affine:
        gain, shift = gain * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if bias is not None:
        shift = shift + bias.double() * gain
    return (weight.double() * gain[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype)


def fold_input_gain(weight: Tensor, gain: Tensor, order: Sequence[int]) -> Tensor:
    """Returns a kernel whose output for `x` is that of `weight` for `x[:, order] * gain[:, None, None]`.

    weight: (O, repeats * len(order), h, w); its input channels are blocks of len(order) image channels.  gain: one
    factor for each image channel, in the order that `weight` expects.
    """
    if weight.is_meta:
        return weight
    gain = gain.to(weight.device)
    blocks = weight.double().unflatten(1, (-1, len(order))) * gain.double()[None, None, :, None, None]
    folded = torch.zeros_like(blocks)
    folded[:, :, list(order)] = blocks
    return folded.flatten(1, 2).to(weight.dtype)


def pad_kernel(weight: Tensor, size: int) -> Tensor:
    """Zero-pads a kernel (O, I, k, k) to (O, I, size, size); k and size are odd, the convolution stays the same."""
    border = (size - weight.shape[-1]) // 2
    return F.pad(weight, (border, border, border, border))


def folded_convolution(convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Returns a convolution with the stride, padding and groups of `convolution`, and the given kernel and bias."""
    folded = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        convolution.groups,
        bias=bias is not None,
        device="meta",
    )
    folded.weight = nn.Parameter(weight.detach())
    if bias is not None:
        folded.bias = nn.Parameter(bias.detach())
    return folded
