"""ASPP, atrous spatial pyramid pooling (Chen et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class Aspp(nn.Module):
    """ASPP (Chen et al. 2018, sec. 3.2): dilated 3x3 convolutions of several rates, concatenated with the input.

    With three rates the output has 4 times the channels, like SPP, so that the two are interchangeable. Concatenated in
    the order of `rates`, then the input.
    """

    def __init__(self, channels: int, style: ConvStyle, rates: tuple[int, ...] = (6, 4, 2)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(style.conv(channels, channels, 3, dilation=rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((*(branch(x) for branch in self.branches), x), 1)
