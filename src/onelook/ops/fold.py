"""Linear operations that merge into the convolution beside them, computed in float64 and given back in its dtype.

Convolutions, batch norm at evaluation and per-channel gains are all linear, so their product is again a convolution
and equal up to rounding. Padding is why not every product is exact: a constant added *before* a padded convolution
does not reach the padding, so constants fold only into what comes before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fold_batch_norm(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel (O, I, h, w) and bias (O,) of the convolution followed by `norm` in evaluation."""
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
    """Kernel that sees `x` as `weight` sees `x[:, order] * gain[:, None, None]`.

    weight: (O, repeats * len(order), h, w), whose input channels are blocks of len(order) image channels.  gain: one
    factor an image channel, in the order that `weight` expects.
    """
    if weight.is_meta:
        return weight
    gain = gain.to(weight.device)
    blocks = weight.double().unflatten(1, (-1, len(order))) * gain.double()[None, None, :, None, None]
    folded = torch.zeros_like(blocks)
    folded[:, :, list(order)] = blocks
    return folded.flatten(1, 2).to(weight.dtype)


def pad_kernel(weight: Tensor, size: int) -> Tensor:
    """A (O, I, k, k) kernel with odd k as the equal (O, I, size, size) kernel with odd size >= k."""
    border = (size - weight.shape[-1]) // 2
    return F.pad(weight, (border, border, border, border))


def folded_convolution(convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution of the geometry of `convolution` with this kernel and bias."""
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
