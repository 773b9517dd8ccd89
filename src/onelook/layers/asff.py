"""ASFF, adaptively spatial feature fusion (Liu et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.resize import resized

if TYPE_CHECKING:
    from onelook.types import Pyramid


class Asff(nn.Module):
    """ASFF (Liu et al. 2019, eq. 1 and 2): an `AsffLevel` for every level of the pyramid."""

    def __init__(self, channels: tuple[int, ...], style: ConvStyle) -> None:
        super().__init__()
        self.levels = nn.ModuleList(AsffLevel(level, channels, style) for level in range(len(channels)))

    def forward(self, pyramid: Pyramid) -> Pyramid:
        return tuple(level(pyramid) for level in self.levels)


class AsffLevel(nn.Module):
    """One output level of ASFF: at each position the weighted sum of all levels, with softmax weights.

    All levels are brought to this level's channels by a 1x1 and to its size. The weights come from a 1x1 over
    `compressed` channels of each level; a 3x3 follows the sum. Downsampling is max-pooling; the paper has strided
    convolutions.
    """

    def __init__(self, level: int, channels: tuple[int, ...], style: ConvStyle, compressed: int = 16) -> None:
        super().__init__()
        self.level = level
        own = channels[level]
        self.match = nn.ModuleList(style.conv(c, own) for c in channels)
        self.compress = nn.ModuleList(style.conv(own, compressed) for _ in channels)
        self.share = nn.Conv2d(compressed * len(channels), len(channels), 1)
        self.expand = style.conv(own, own, 3)

    def forward(self, pyramid: Pyramid) -> Tensor:
        size = (pyramid[self.level].shape[2], pyramid[self.level].shape[3])
        levels = [resized(match(level), size) for match, level in zip(self.match, pyramid)]
        maps = [compress(level) for compress, level in zip(self.compress, levels)]
        shares = self.share(torch.cat(maps, 1)).softmax(1).split(1, 1)
        return self.expand(torch.stack([level * share for level, share in zip(levels, shares)]).sum(0))
