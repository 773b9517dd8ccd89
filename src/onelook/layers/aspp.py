"""Blocks that widen the receptive field without losing resolution: dilated where `layers.spp` pools."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: dilated 3x3 convolutions beside the input (Chen et al. 2018, sec. 3.1).

    Every branch has a quarter of the joined channels where there are three rates, as the pools of an SPP have, so that
    the two can be exchanged; the join is ordered as `rates`, then the input.
    """

    def __init__(self, channels: int, style: ConvStyle, rates: tuple[int, ...] = (6, 4, 2)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(style.conv(channels, channels, 3, dilation=rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((*(branch(x) for branch in self.branches), x), 1)
