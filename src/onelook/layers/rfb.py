"""RFB, receptive field block (Liu et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class Rfb(nn.Module):
    """Receptive field block (Liu et al. 2018, fig. 4a): branches of k x k and 3x3 with dilation k, for k = 1, 3, 5.

    Every branch starts with a 1x1 to a quarter of the channels. The concatenated branches pass a 1x1 without
    activation, are scaled and added to the input; then the activation.  scale: of the residual, 0.1 as published.
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
