"""The neck of YOLOv7: SPPCSPC, PAN with ELANs (top-down, then bottom-up), and the convolutions before the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.rep_conv import RepConv
from onelook.layers.resize import upsample
from onelook.layers.training_only import TrainingOnly
from onelook.networks.branched_structure import Downsample
from onelook.networks.detector import Backbone, Neck
from onelook.networks.yolov7.downsample import downsample
from onelook.networks.yolov7.elan import ElanChain, ExtendedElan
from onelook.networks.yolov7.sppcspc import LightSppCsp, SppCspc

if TYPE_CHECKING:
    from onelook.types import Pyramid


@dataclass(frozen=True)
class NeckLevel:
    """Channels of one level of the neck: of both paths, of their ELANs' 1x1 and 3x3, before the lead head.

    auxiliary: before the auxiliary head, 0 without one.
    """

    width: int
    block: int
    inner: int
    lead: int
    auxiliary: int = 0


class TopDownJoin(nn.Module):
    """Concatenates the backbone's map and the upsampled coarser map, each after a 1x1, in this order."""

    def __init__(self, coarser: int, lateral: int, outputs: int, style: ConvStyle) -> None:
        super().__init__()
        self.reduce = style.conv(coarser, outputs)
        self.lateral = style.conv(lateral, outputs)

    def forward(self, coarser: Tensor, lateral: Tensor) -> Tensor:
        return torch.cat((self.lateral(lateral), upsample(self.reduce(coarser))), 1)


class ElanNeck(Neck):
    """PAFPN with an ELAN after every concatenation (PANet, in the place of its sums).

    The lead head reads the bottom-up path, the auxiliary head the top-down path.  partial: the auxiliary head reads
    only the last branch of every E-ELAN, before the sum, so that its loss does not reach the other branches directly
    (table 8). The coarsest auxiliary map is always the output of SPPCSPC.  forward: in training the lead levels, then
    the auxiliary ones; in evaluation the lead levels.
    """

    def __init__(
        self,
        backbone: Backbone,
        levels: Sequence[NeckLevel],
        chain: ElanChain,
        down: Downsample,
        style: ConvStyle,
        *,
        pooling: Literal["sppcspc", "light"] = "sppcspc",
        lead: Literal["conv", "rep"] = "conv",
        copies: int = 1,
        partial: bool = False,
    ) -> None:
        super().__init__()
        self.strides = backbone.strides
        self.channels = tuple(level.lead for level in levels)
        self.auxiliary_channels = tuple(level.auxiliary for level in levels if level.auxiliary)
        self._partial = partial
        pool = SppCspc if pooling == "sppcspc" else LightSppCsp
        self.pool = pool(backbone.channels[-1], levels[-1].width, style)

        def block(level: NeckLevel) -> ExtendedElan:
            return ExtendedElan(
                2 * level.width, level.width, level.block, level.inner, chain=chain, style=style, copies=copies
            )

        finer = list(zip(backbone.channels, levels, levels[1:]))
        # Both paths in the order of computation: the way down begins at the second coarsest level.
        self.routes = nn.ModuleList(
            TopDownJoin(coarser.width, lateral, level.width, style) for lateral, level, coarser in finer[::-1]
        )
        self.top_down = nn.ModuleList(block(level) for _, level, _ in finer[::-1])
        self.downs = nn.ModuleList(downsample(down, level.width, coarser.width, style) for _, level, coarser in finer)
        self.bottom_up = nn.ModuleList(block(level) for level in levels[1:])
        self.lead = nn.ModuleList(
            RepConv(level.width, level.lead, style) if lead == "rep" else style.conv(level.width, level.lead, 3)
            for level in levels
        )
        self.auxiliary = TrainingOnly(
            style.conv(level.width, level.auxiliary, 3) for level in levels if level.auxiliary
        )

    def forward(self, pyramid: Pyramid) -> Pyramid:
        descending = [self.pool(pyramid[-1])]
        sources = [descending[0]]
        for route, block, lateral in zip(self.routes, self.top_down, pyramid[-2::-1]):
            assert isinstance(block, ExtendedElan)  # the type checker sees a list of modules
            parts = block.parts(route(descending[-1], lateral))
            descending.append(sum(parts[1:], parts[0]))
            sources.append(parts[-1] if self._partial else descending[-1])
        ascending = [descending[-1]]
        for down, block, lateral in zip(self.downs, self.bottom_up, descending[-2::-1]):
            ascending.append(block(torch.cat((down(ascending[-1]), lateral), 1)))
        outputs = tuple(conv(x) for conv, x in zip(self.lead, ascending))
        if not self.training:
            return outputs
        return outputs + tuple(conv(x) for conv, x in zip(self.auxiliary, sources[::-1]))
