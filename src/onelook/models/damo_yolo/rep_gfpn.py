"""Efficient RepGFPN (DAMO-YOLO sec. 2.2, figs. 2 and 3): queen fusion as a table of merges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvBnAct, ConvStyle, DepthwiseSeparable
from onelook.layers.rep_conv import RepConv
from onelook.layers.resize import upsample
from onelook.models.damo_yolo.backbone import MobileBlock
from onelook.models.detector import Backbone, Neck

if TYPE_CHECKING:
    from onelook.types import Pyramid

Fusion = Literal["conv", "csp", "csp_rep", "csp_rep_elan"]


@dataclass(frozen=True)
class Merge:
    """One node of fig. 2: what is concatenated there, in this order.

    own: the node of the same level before it.  finer, coarser: the queen's extra links from the level below and
    above, before it (down- and up-sampled).  chain: the node that was just made at the neighbouring level.
    """

    node: str
    own: str
    finer: str | None = None
    coarser: str | None = None
    chain: str | None = None


# Nodes in the order they are made; the digit is the level, c what the backbone gives, n what the head gets.
MERGES = (
    # top-down:  level's own, extra down, extra up, chain (up)
    Merge("p5", own="c5", finer="c4"),
    Merge("p4", own="c4", finer="c3", coarser="c5", chain="p5"),
    Merge("n3", own="c3", coarser="c4", chain="p4"),
    # bottom-up: level's own, extra down, extra up, chain (down)
    Merge("n4", own="p4", coarser="p5", chain="n3"),
    Merge("n5", own="p5", finer="p4", chain="n4"),
)


@dataclass(frozen=True)
class RepGfpn:
    """Settings of the neck.

    channels: of its outputs, finest first; inside, a level keeps the backbone's.  depth: 3 times this, rounded (half
    to even), is the number of blocks of every merge.  hidden: channels between the two convolutions of a block, as a
    part of its own; mobile blocks have `expansion` times their own instead.  extra_down, extra_up: the queen's links
    (table 3; the published networks have only the first).  fusion: the rows of table 4.  depthwise: mobile blocks
    and separable downsampling, as in the Nano networks.
    """

    channels: tuple[int, int, int]
    depth: float = 1.0
    hidden: float = 1.0
    expansion: float = 3.0
    activation: str = "relu"
    fusion: Fusion = "csp_rep_elan"
    extra_down: bool = True
    extra_up: bool = False
    depthwise: bool = False

    def __post_init__(self) -> None:
        if min(self.channels) < 2 or not 0 <= self.depth <= 16 or self.hidden <= 0 or self.expansion <= 0:
            raise ValueError("a neck has at least 2 channels a level, a depth of 0 to 16 and positive widths")

    @property
    def count(self) -> int:
        """Blocks of a merge: 3 * 1.5 = 4.5 gives 4, as published."""
        return round(3 * self.depth)

    def build(self, backbone: Backbone, style: ConvStyle) -> RepGfpnNeck:
        """The neck behind a backbone of three levels."""
        return RepGfpnNeck(self, backbone, replace(style, activation=self.activation, depthwise=self.depthwise))


class RepGfpnNeck(Neck):
    """The merges of `MERGES`, evaluated in their order."""

    def __init__(self, form: RepGfpn, backbone: Backbone, style: ConvStyle) -> None:
        super().__init__()
        self.channels = form.channels
        self.strides = backbone.strides
        widths = {f"c{level}": width for level, width in zip((3, 4, 5), backbone.channels, strict=True)}
        widths |= {"p4": widths["c4"], "p5": widths["c5"]}
        widths |= {f"n{level}": width for level, width in zip((3, 4, 5), form.channels)}
        self.sources = {merge.node: _sources(merge, form) for merge in MERGES}
        self.downs = nn.ModuleDict()
        self.merges = nn.ModuleDict()
        for node, sources in self.sources.items():
            for source in sources:
                if _level(source) < _level(node):
                    self.downs[f"{source}_{node}"] = style.spatial(widths[source], widths[source], stride=2)
            self.merges[node] = _fusion(sum(widths[source] for source in sources), widths[node], form, style)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        made = dict(zip(("c3", "c4", "c5"), pyramid, strict=True))
        for node, sources in self.sources.items():
            made[node] = self.merges[node](torch.cat([self._link(made, source, node) for source in sources], 1))
        return made["n3"], made["n4"], made["n5"]

    def _link(self, made: dict[str, Tensor], source: str, node: str) -> Tensor:
        if _level(source) < _level(node):
            return self.downs[f"{source}_{node}"](made[source])
        return upsample(made[source]) if _level(source) > _level(node) else made[source]


def _sources(merge: Merge, form: RepGfpn) -> tuple[str, ...]:
    finer = merge.finer if form.extra_down else None
    coarser = merge.coarser if form.extra_up else None
    return tuple(source for source in (merge.own, finer, coarser, merge.chain) if source is not None)


def _level(node: str) -> int:
    return int(node[1])


def _fusion(inputs: int, outputs: int, form: RepGfpn, style: ConvStyle) -> nn.Module:
    if form.fusion == "conv":
        return style.conv(inputs, outputs, 3)
    return FusionBlock(inputs, outputs, form, style)


class FusionBlock(nn.Module):
    """Two 1x1 paths, a chain of blocks on one of them, all joined by a 1x1 (fig. 3d).

    With "csp_rep_elan" the output of every block is joined, as in ELAN, otherwise only the last one's. What the chain
    begins with is not joined. Without blocks only the other path is left.
    """

    def __init__(self, inputs: int, outputs: int, form: RepGfpn, style: ConvStyle) -> None:
        super().__init__()
        around = outputs // 2
        width = outputs - around
        self.all = form.fusion == "csp_rep_elan"
        self.around = style.conv(inputs, around)
        self.enter: nn.Module = style.conv(inputs, width) if form.count else nn.Identity()
        self.blocks = nn.ModuleList(_block(width, form, style) for _ in range(form.count))
        self.join = style.conv(around + width * (form.count if self.all else min(form.count, 1)), outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.around(x)]
        if len(self.blocks):
            x = self.enter(x)
        for block in self.blocks:
            x = block(x)
            parts.append(x)
        return self.join(torch.cat(parts if self.all else [parts[0], *parts[1:][-1:]], 1))


def _block(width: int, form: RepGfpn, style: ConvStyle) -> nn.Module:
    if form.depthwise:
        return MobileBlock(width, width, multiple_of_8(width * form.expansion), style, kernel=5)
    return FusionResidual(width, int(width * form.hidden), style, reparameterised=form.fusion != "csp")


class FusionResidual(nn.Module):
    """x + 3x3(3x3(x)), the first a RepConv, both activated; nothing is activated after the sum."""

    def __init__(self, width: int, hidden: int, style: ConvStyle, *, reparameterised: bool) -> None:
        super().__init__()
        self.first: RepConv | ConvBnAct = (
            RepConv(width, hidden, style) if reparameterised else style.conv(width, hidden, 3)
        )
        self.second = style.conv(hidden, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def multiple_of_8(width: float) -> int:
    """The width as MobileNets round it: up to a whole number, then to a multiple of 8, at most 10 % down."""
    width = math.ceil(width)
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def initialise_separable(neck: nn.Module) -> None:
    """Kaiming-normal over the outputs for separable convolutions, as published; the rest keeps PyTorch's default."""
    for module in neck.modules():
        if isinstance(module, DepthwiseSeparable):
            for part in module.children():
                assert isinstance(part, ConvBnAct)  # the style made them
                nn.init.kaiming_normal_(part.conv.weight, mode="fan_out", nonlinearity="relu")
