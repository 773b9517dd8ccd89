"""Sums of feature maps with learnt weights: residuals, and levels of a pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onelook.layers.attention import SqueezeExcite
from onelook.layers.conv import ConvStyle

if TYPE_CHECKING:
    from onelook.types import Pyramid

Residual = Literal["plain", "per_feature", "per_channel"]
Normalization = Literal["none", "relu", "softmax"]


class PlainSum(nn.Module):
    """The sum of a map and others; of maps with another number of channels, only the channels that both have.

    The result has the channels of the first. A sum of unequal maps is how CSPResNeXt-50 was published.
    """

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        total = first
        for other in others:
            total = total + _channels(other, first.shape[1])
        return total


class WeightedSum(nn.Module):
    """Multi-input weighted residual connections: sum of w_i x_i with learnt w_i (EfficientDet sec. 3.3; YOLOv4 MiWRC).

    sources: how many maps besides the first; all have `channels` or are cut or filled up with zeros to them.
    per_channel: one weight for each channel of each map instead of one a map.  normalization: "none" takes w as it is,
    "relu" is max(w, 0) / (1e-4 + sum of them), EfficientDet's fast fusion, "softmax" exp(w) / (1e-4 + sum of them).
    All weights start at 1.
    """

    def __init__(
        self, sources: int, channels: int, *, per_channel: bool = False, normalization: Normalization = "relu"
    ) -> None:
        super().__init__()
        self.normalization = normalization
        self.weight = nn.Parameter(torch.ones(sources + 1, *((channels,) if per_channel else ())))

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        weights = self.weights().reshape(len(self.weight), 1, -1, 1, 1)
        total = first * weights[0]
        for index, other in enumerate(others, 1):
            total = total + _channels(other, first.shape[1]) * weights[index]
        return total

    def weights(self) -> Tensor:
        """(sources + 1,) or (sources + 1, channels): the factors as they are used."""
        if self.normalization == "none":
            return self.weight
        if self.normalization == "relu":
            positive = self.weight.clamp(min=0)
        else:
            positive = (self.weight - self.weight.amax(0, keepdim=True).detach()).exp()
        return positive / (1e-4 + positive.sum(0, keepdim=True))


def residual_sum(residual: Residual, normalization: Normalization, sources: int, channels: int) -> nn.Module:
    """What joins a path with `sources` others: `forward(first, *others)`."""
    if residual == "plain":
        return PlainSum()
    return WeightedSum(sources, channels, per_channel=residual == "per_channel", normalization=normalization)


def _channels(x: Tensor, wanted: int) -> Tensor:
    """The map with `wanted` channels: cut, or filled up with zeros."""
    missing = wanted - x.shape[1]
    if missing > 0:
        return F.pad(x, (0, 0, 0, 0, 0, missing))
    return x[:, :wanted] if missing < 0 else x


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of another level at this level's size: nearest neighbour up, the greatest of each window down."""
    if (x.shape[2], x.shape[3]) == size:
        return x
    if x.shape[2] > size[0]:
        factor = x.shape[2] // size[0]
        return F.max_pool2d(x, factor, factor)
    return F.interpolate(x, scale_factor=float(size[0] // x.shape[2]), mode="nearest")


class Asff(nn.Module):
    """Adaptively spatial feature fusion (Liu et al. 2019, eq. 1 and 2): an `AsffLevel` for every level."""

    def __init__(self, channels: tuple[int, ...], style: ConvStyle) -> None:
        super().__init__()
        self.levels = nn.ModuleList(AsffLevel(level, channels, style) for level in range(len(channels)))

    def forward(self, pyramid: Pyramid) -> Pyramid:
        return tuple(level(pyramid) for level in self.levels)


class AsffLevel(nn.Module):
    """At each place of one level, all levels, each with its share: sum of a_n x_n with a softmax over n.

    All levels come to this one's channels by a 1x1 and to its size; the shares are 1x1 maps of `compressed` channels
    made of each; a 3x3 follows. Downwards this takes the maximum of a window, where the paper has strided convolutions.
    """

    def __init__(self, level: int, channels: tuple[int, ...], style: ConvStyle, compressed: int = 16) -> None:
        super().__init__()
        self.level = level
        own = channels[level]
        self.match = nn.ModuleList(style.conv(c, own) for c in channels)
        self.compress = nn.ModuleList(style.conv(own, compressed) for _ in channels)
        self.share = nn.Conv2d(compressed * len(channels), len(channels), 1)
        self.expand = style.conv(own, own, 3)

    def forward(self, pyramid: Pyramid) -> Tensor:
        size = (pyramid[self.level].shape[2], pyramid[self.level].shape[3])
        levels = [resized(match(level), size) for match, level in zip(self.match, pyramid)]
        maps = [compress(level) for compress, level in zip(self.compress, levels)]
        shares = self.share(torch.cat(maps, 1)).softmax(1).split(1, 1)
        return self.expand(torch.stack([level * share for level, share in zip(levels, shares)]).sum(0))


class Sfam(nn.Module):
    """Scale-wise feature aggregation (M2Det, Zhao et al. 2019, fig. 5): concatenate levels, weigh channels, reduce.

    For each level: all levels at its size, joined, gated a channel at a time by `SqueezeExcite`, and brought back to
    its channels by a 1x1 (M2Det keeps them all, as its pyramids share one width).
    """

    def __init__(self, channels: tuple[int, ...], style: ConvStyle) -> None:
        super().__init__()
        self.gates = nn.ModuleList(SqueezeExcite(sum(channels)) for _ in channels)
        self.reduce = nn.ModuleList(style.conv(sum(channels), own) for own in channels)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        fused = []
        for own, gate, reduce in zip(pyramid, self.gates, self.reduce):
            size = (own.shape[2], own.shape[3])
            fused.append(reduce(gate(torch.cat([resized(level, size) for level in pyramid], 1))))
        return tuple(fused)
