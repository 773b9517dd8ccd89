"""Sums of feature maps with learnt weights: residuals, and levels of a pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    pass

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
