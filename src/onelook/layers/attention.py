"""Attention gates on a feature map: for each position (SAM), each value (modified SAM), or each channel (SE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class SpatialAttention(nn.Module):
    """SAM of CBAM (Woo et al. 2018, eq. 3): x * sigmoid(BN(7x7([mean over channels, max over channels]))).

    One gate for each position. The paper has no batch norm; CBAM's code has it.
    """

    def __init__(self, channels: int, style: ConvStyle, kernel: int = 7) -> None:
        super().__init__()
        self.gate = style.conv(2, 1, kernel, activation="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1))


class PointwiseAttention(nn.Module):
    """Modified SAM (YOLOv4 fig. 5): x * sigmoid(BN(1x1(x))). One gate for each value, without pooling."""

    def __init__(self, channels: int, style: ConvStyle) -> None:
        super().__init__()
        self.gate = style.conv(channels, channels, activation="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018, eq. 2 to 4): x * sigmoid(1x1(ReLU(1x1(mean over positions)))).

    One gate for each channel.  reduction: factor by which the channels between the two convolutions are fewer.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.excite(self.squeeze(pooled).relu()).sigmoid()
