"""Downsampling blocks of YOLOv7."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onelook.layers.conv import ConvStyle

Downsample = Literal["pool", "both", "conv", "down_c"]


class Pool(nn.Module):
    """Half the resolution by 2x2 max-pooling; channels stay."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)


class DownBoth(nn.Module):
    """MP: half of the channels by a 3x3 of stride 2, half by pooling, each behind or before a 1x1, in this order."""

    def __init__(self, inputs: int, half: int, style: ConvStyle) -> None:
        super().__init__()
        self.pooled = style.conv(inputs, half)
        self.reduce = style.conv(inputs, half)
        self.strided = style.conv(half, half, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.strided(self.reduce(x)), self.pooled(F.max_pool2d(x, 2))), 1)


class DownC(nn.Module):
    """As `DownBoth`, but the strided path keeps all channels until its 3x3 (E6, D6, E6E)."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle) -> None:
        super().__init__()
        self.keep = style.conv(inputs, inputs)
        self.strided = style.conv(inputs, outputs // 2, 3, stride=2)
        self.pooled = style.conv(inputs, outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.strided(self.keep(x)), self.pooled(F.max_pool2d(x, 2))), 1)


def downsample(kind: Downsample, inputs: int, outputs: int, style: ConvStyle) -> nn.Module:
    """Half the resolution; `outputs` channels, except that "pool" keeps its `inputs`."""
    match kind:
        case "pool":
            return Pool()
        case "both":
            return DownBoth(inputs, outputs // 2, style)
        case "conv":
            return style.conv(inputs, outputs, 3, stride=2)
        case "down_c":
            return DownC(inputs, outputs, style)
