"""Attention as a gate on a feature map: where, which channel, or each value on its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class SpatialAttention(nn.Module):
    """x * sigmoid(BN(7x7([mean over channels, max over channels]))): the SAM of CBAM (Woo et al. 2018, eq. 3).

    One gate a position. The published module has a plain sigmoid of the convolution; batch norm is CBAM's code.
    """

    def __init__(self, channels: int, style: ConvStyle, kernel: int = 7) -> None:
        super().__init__()
        self.gate = style.conv(2, 1, kernel, activation="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1))


class PointwiseAttention(nn.Module):
    """x * sigmoid(BN(1x1(x))): the modified SAM (YOLOv4 fig. 5). One gate a value, nothing is pooled."""

    def __init__(self, channels: int, style: ConvStyle) -> None:
        super().__init__()
        self.gate = style.conv(channels, channels, activation="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class SqueezeExcite(nn.Module):
    """x * sigmoid(1x1(ReLU(1x1(mean over positions)))) (Hu et al. 2018, eq. 2 to 4). One gate a channel.

    reduction: how many times fewer channels are between the two convolutions.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.excite(self.squeeze(pooled).relu()).sigmoid()
