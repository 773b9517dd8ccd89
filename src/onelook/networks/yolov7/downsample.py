"""The downsampling blocks of YOLOv7, between its ELANs ("transitions")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onelook.layers.conv import ConvStyle
from onelook.networks.branched_structure import Downsample


class MaxPool(nn.Module):
    """2x2 max-pooling; channels stay."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)


class MpDownsample(nn.Module):
    """MP: half of the output channels from a 1x1 and a 3x3 of stride 2, half from max-pooling and a 1x1."""

    def __init__(self, inputs: int, half: int, style: ConvStyle) -> None:
        super().__init__()
        self.pooled = style.conv(inputs, half)
        self.reduce = style.conv(inputs, half)
        self.strided = style.conv(half, half, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.strided(self.reduce(x)), self.pooled(F.max_pool2d(x, 2))), 1)


class DownC(nn.Module):
    """DownC, as `MpDownsample`, but the 1x1 of the strided path keeps all channels (E6, D6, E6E)."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle) -> None:
        super().__init__()
        self.keep = style.conv(inputs, inputs)
        self.strided = style.conv(inputs, outputs // 2, 3, stride=2)
        self.pooled = style.conv(inputs, outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.strided(self.keep(x)), self.pooled(F.max_pool2d(x, 2))), 1)


def downsample(kind: Downsample, inputs: int, outputs: int, style: ConvStyle) -> nn.Module:
    """Makes a block that halves the resolution and has `outputs` channels; "pool" keeps the channels."""
    match kind:
        case "pool":
            return MaxPool()
        case "both":
            return MpDownsample(inputs, outputs // 2, style)
        case "conv":
            return style.conv(inputs, outputs, 3, stride=2)
        case "down_c":
            return DownC(inputs, outputs, style)
