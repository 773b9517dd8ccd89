"""Spatial pyramid pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class PlainSpp(nn.Module):
    """Max-pools of several sizes beside their input, without convolutions (YOLOv4 sec. 3.4; He et al. 2015).

    The join is ordered as `sizes`, then the input: largest pool first in all published weights of YOLOv4.
    """

    def __init__(self, sizes: tuple[int, ...] = (13, 9, 5)) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((*(pool(x) for pool in self.pools), x), 1)


class SamePaddingMaxPool(nn.Module):
    """Max-pool that rounds sizes up: of n cells it leaves ceil(n / stride), as Darknet does.

    Of the k - 1 cells of padding, which never win, the smaller half is left and top.
    """

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.size == self.stride == 2:
            return F.max_pool2d(x, 2, 2, ceil_mode=True)  # the same without a padded copy of the map
        before = (self.size - 1) // 2
        after = self.size - 1 - before
        padded = F.pad(x, (before, after, before, after), value=-torch.inf)
        return F.max_pool2d(padded, self.size, self.stride)
