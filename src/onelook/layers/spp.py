"""SPP, spatial pyramid pooling (He et al. 2015; YOLOv4 sec. 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onelook.layers.conv import ConvStyle


class Spp(nn.Module):
    """SPP with convolutions: 1x1 to half the channels, max-pools of several sizes, all concatenated, 1x1.

    Pools of stride 1 keep the size. Concatenated in the order: unpooled, then by size of pool.
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
    """SPP without convolutions: max-pools of several sizes concatenated with the input (YOLOv4 sec. 2.3).

    Concatenated in the order of `sizes`, then the input: largest pool first in all published weights of YOLOv4.
    """

    def __init__(self, sizes: tuple[int, ...] = (13, 9, 5)) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((*(pool(x) for pool in self.pools), x), 1)


class SamePaddingMaxPool(nn.Module):
    """Max-pooling with "same" padding as in Darknet: n cells become ceil(n / stride).

    Of the k - 1 cells of padding (-inf), the smaller half is left and top.
    """

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.size == self.stride == 2:
            return F.max_pool2d(x, 2, 2, ceil_mode=True)  # equal, without a padded copy of the map
        before = (self.size - 1) // 2
        after = self.size - 1 - before
        padded = F.pad(x, (before, after, before, after), value=-torch.inf)
        return F.max_pool2d(padded, self.size, self.stride)
