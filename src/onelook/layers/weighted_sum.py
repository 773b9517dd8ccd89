"""Sums of feature maps with learned weights: multi-input weighted residual connections (MiWRC, YOLOv4)."""

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
    """Sum of feature maps; maps with another number of channels than the first are cut or padded with zeros.

    CSPResNeXt-50 was published with sums of unequal maps.
    """

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        total = first
        for other in others:
            total = total + _channels(other, first.shape[1])
        return total


class WeightedSum(nn.Module):
    """Weighted sum of feature maps with learned weights w_i (MiWRC of YOLOv4; EfficientDet sec. 3.3).

    sources: number of maps besides the first; maps are cut or padded with zeros to the channels of the first.
    per_channel: one weight for each channel of each map, not one for each map.  normalization: "none" uses w directly,
    "relu" is max(w, 0) / (1e-4 + their sum), EfficientDet's fast fusion, "softmax" exp(w) / (1e-4 + their sum). All
    weights start at 1.
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
        """Returns the normalised weights, (sources + 1,) or (sources + 1, channels)."""
        if self.normalization == "none":
            return self.weight
        if self.normalization == "relu":
            positive = self.weight.clamp(min=0)
        else:
            positive = (self.weight - self.weight.amax(0, keepdim=True).detach()).exp()
        return positive / (1e-4 + positive.sum(0, keepdim=True))


def residual_sum(residual: Residual, normalization: Normalization, sources: int, channels: int) -> nn.Module:
    """Returns the module that sums a path with `sources` others: `forward(first, *others)`."""
    if residual == "plain":
        return PlainSum()
    return WeightedSum(sources, channels, per_channel=residual == "per_channel", normalization=normalization)


def _channels(x: Tensor, count: int) -> Tensor:
    """Cuts a map to `count` channels, or pads it with zeros."""
    missing = count - x.shape[1]
    if missing > 0:
        return F.pad(x, (0, 0, 0, 0, 0, missing))
    return x[:, :count] if missing < 0 else x
