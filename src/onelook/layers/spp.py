"""Spatial pyramid pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class Spp(nn.Module):
    """1x1 to half the channels, max-pools of several sizes beside it, 1x1 over all (YOLOv4, sec. 3.4; He et al. 2015).

    Stride-1 pools keep the size. The join is ordered: unpooled, then by size of pool.
    """

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, sizes: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = inputs // 2
        self.reduce = style.conv(inputs, hidden)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)
        self.join = style.conv(hidden * (len(sizes) + 1), outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return self.join(torch.cat((x, *(pool(x) for pool in self.pools)), 1))
