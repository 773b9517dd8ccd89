"""Efficient RepGFPN, the neck of DAMO-YOLO (sec. 2.2 and fig. 2), with its queen-fusion as a table of merges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvBnAct, ConvStyle, DepthwiseSeparable
from onelook.layers.rep_conv import RepConv
from onelook.layers.resize import upsample
from onelook.networks.damo_yolo.backbone import MobileBlock
from onelook.networks.detector import Backbone, Neck

if TYPE_CHECKING:
    from onelook.types import Pyramid

Fusion = Literal["conv", "csp", "csp_rep", "csp_rep_elan"]


@dataclass(frozen=True)
class Merge:
    """One node of fig. 2, with the nodes that are concatenated there, in this order.

    own: the previous node of the same level.  finer, coarser: the extra links of queen-fusion, from the previous nodes
    of the neighbouring levels (down- and upsampled).  chain: the node just computed at the neighbouring level.
    """

    node: str
    own: str
    finer: str | None = None
    coarser: str | None = None
    chain: str | None = None


# Nodes in order of computation; the digit is the level, c an output of the backbone, n an input of the head.
MERGES = (
    # top-down:  level's own, extra down, extra up, chain (up)
    Merge("p5", own="c5", finer="c4"),
    Merge("p4", own="c4", finer="c3", coarser="c5", chain="p5"),
    Merge("p3", own="c3", coarser="c4", chain="p4"),
    # bottom-up: level's own, extra down, extra up, chain (down)
    Merge("n3", own="p3", coarser="p4"),
    Merge("n4", own="p4", finer="p3", coarser="p5", chain="n3"),
    Merge("n5", own="p5", finer="p4", chain="n4"),
)


@dataclass(frozen=True)
class RepGfpn:
    """Settings of RepGFPN.

    channels: of its outputs, finest first; inner nodes have those of the backbone.  depth: 3 times this, rounded (half
    to even), is the number of blocks of every merge.  hidden: channels between the two convolutions of a block,
    relative to its own; mobile blocks have `expansion` times their own instead.  extra_down, extra_up: the extra links
    of queen-fusion (table 3; published networks have only the first).  fusion: the rows of table 4.  depthwise: mobile
    blocks and separable downsampling, as in the Nano networks.
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
        """Number of blocks of a merge: 3 * 1.5 = 4.5 gives 4, as published."""
        return round(3 * self.depth)

    def build(self, backbone: Backbone, style: ConvStyle) -> RepGfpnNeck:
        """Builds the neck for a backbone of three levels."""
        return RepGfpnNeck(self, backbone, replace(style, activation=self.activation, depthwise=self.depthwise))


class RepGfpnNeck(Neck):
    """RepGFPN: computes the nodes of `MERGES` in their order.

    A node that the links leave with one source has nothing to merge: it is that source (n3 is p3 in the published
    networks; without `extra_down`, p5 is c5). This gives the FLOPs of every row of table 3.
    """

    def __init__(self, form: RepGfpn, backbone: Backbone, style: ConvStyle) -> None:
        super().__init__()
        self.channels = form.channels
        self.strides = backbone.strides
        widths = {f"c{level}": width for level, width in zip((3, 4, 5), backbone.channels, strict=True)}
        low, middle, high = form.channels
        targets = {"p5": widths["c5"], "p4": widths["c4"], "p3": low, "n3": low, "n4": middle, "n5": high}
        self.sources, self.outputs = _links(form)
        self.downs = nn.ModuleDict()
        self.merges = nn.ModuleDict()
        for node, sources in self.sources.items():
            for source in sources:
                if _level(source) < _level(node):
                    self.downs[f"{source}_{node}"] = style.spatial(widths[source], widths[source], stride=2)
            widths[node] = targets[node]
            self.merges[node] = _fusion(sum(widths[source] for source in sources), widths[node], form, style)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        nodes = dict(zip(("c3", "c4", "c5"), pyramid, strict=True))
        for node, sources in self.sources.items():
            nodes[node] = self.merges[node](torch.cat([self._link(nodes, source, node) for source in sources], 1))
        return tuple(nodes[node] for node in self.outputs)

    def _link(self, nodes: dict[str, Tensor], source: str, node: str) -> Tensor:
        if _level(source) < _level(node):
            return self.downs[f"{source}_{node}"](nodes[source])
        return upsample(nodes[source]) if _level(source) > _level(node) else nodes[source]


def _links(form: RepGfpn) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The nodes that merge several sources, with their sources, and the nodes that are the outputs, finest first."""
    merged: dict[str, tuple[str, ...]] = {}
    same: dict[str, str] = {}  # a node with one source -> that source
    for merge in MERGES:
        coarser = merge.coarser if form.extra_up else None
        finer = merge.finer if form.extra_down else None
        if finer is not None and finer == same.get(merge.chain or "", merge.chain):
            finer = None  # n3 is p3 here: the chain already brings it down
        links = (merge.own, finer, coarser, merge.chain)
        sources = tuple(same.get(link, link) for link in links if link is not None)
        if len(sources) == 1:
            same[merge.node] = sources[0]
        else:
            merged[merge.node] = sources
    return merged, tuple(same.get(node, node) for node in ("n3", "n4", "n5"))


def _level(node: str) -> int:
    return int(node[1])


def _fusion(inputs: int, outputs: int, form: RepGfpn, style: ConvStyle) -> nn.Module:
    if form.fusion == "conv":
        return style.conv(inputs, outputs, 3)
    return FusionBlock(inputs, outputs, form, style)


class FusionBlock(nn.Module):
    """Fusion block (sec. 2.2 and fig. 2): two 1x1 paths, one with a chain of blocks; a 1x1 over their concatenation.

    With "csp_rep_elan" the outputs of all blocks are concatenated, as in ELAN, otherwise only that of the last block.
    The input of the chain is not concatenated. Without blocks there is only the other path.
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
    """Residual block x + 3x3(3x3(x)): the first is a RepConv, both are activated; no activation after the sum."""

    def __init__(self, width: int, hidden: int, style: ConvStyle, *, reparameterised: bool) -> None:
        super().__init__()
        self.first: RepConv | ConvBnAct = (
            RepConv(width, hidden, style) if reparameterised else style.conv(width, hidden, 3)
        )
        self.second = style.conv(hidden, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def multiple_of_8(width: float) -> int:
    """Rounds a width as MobileNets do: up to a whole number, then to a multiple of 8, at most 10 % down."""
    width = math.ceil(width)
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def initialise_separable(neck: nn.Module) -> None:
    """Initialises separable convolutions Kaiming-normal by fan-out, as published; others keep PyTorch's default."""
    for module in neck.modules():
        if isinstance(module, DepthwiseSeparable):
            for part in module.children():
                assert isinstance(part, ConvBnAct)  # `ConvStyle.conv` makes nothing else
                nn.init.kaiming_normal_(part.conv.weight, mode="fan_out", nonlinearity="relu")
