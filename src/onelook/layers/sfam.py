"""SFAM, scale-wise feature aggregation module (M2Det, Zhao et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from onelook.layers.attention import SqueezeExcite
from onelook.layers.conv import ConvStyle
from onelook.layers.resize import resized

if TYPE_CHECKING:
    from onelook.types import Pyramid


class Sfam(nn.Module):
    """SFAM (M2Det, Zhao et al. 2019): for each level, concatenates all levels at its size; then channel attention.

    A 1x1 then reduces them to the level's channels (M2Det keeps all channels, as its pyramids have one width). The
    channel attention is `SqueezeExcite`.
    """

    def __init__(self, channels: tuple[int, ...], style: ConvStyle) -> None:
        super().__init__()
        self.gates = nn.ModuleList(SqueezeExcite(sum(channels)) for _ in channels)
        self.reduce = nn.ModuleList(style.conv(sum(channels), own) for own in channels)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        fused = []
        for own, gate, reduce in zip(pyramid, self.gates, self.reduce):
            size = (own.shape[2], own.shape[3])
            fused.append(reduce(gate(torch.cat([resized(level, size) for level in pyramid], 1))))
        return tuple(fused)
