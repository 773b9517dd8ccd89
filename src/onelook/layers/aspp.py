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


class Rfb(nn.Module):
    """Receptive field block (Liu et al. 2018, fig. 4a): k x k, then 3x3 with dilation k, for k = 1, 3, 5, in parallel.

    Every branch starts with a 1x1 to a quarter of the channels; all are joined by a 1x1 without activation, scaled, and
    added to the input; then the activation.  scale: on the residual, 0.1 as published.
    """

    def __init__(self, channels: int, style: ConvStyle, sizes: tuple[int, ...] = (1, 3, 5), scale: float = 0.1) -> None:
        super().__init__()
        hidden = max(1, channels // 4)
        self.scale = scale
        self.branches = nn.ModuleList(_branch(channels, hidden, size, style) for size in sizes)
        self.join = style.conv(hidden * len(sizes), channels, activation="identity")
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        joined = self.join(torch.cat([branch(x) for branch in self.branches], 1))
        return self.activation(x + self.scale * joined)


def _branch(inputs: int, hidden: int, size: int, style: ConvStyle) -> nn.Sequential:
    widen = [style.conv(hidden, hidden, size)] if size > 1 else []
    spread = style.conv(hidden, hidden, 3, dilation=size, activation="identity")
    return nn.Sequential(style.conv(inputs, hidden), *widen, spread)
