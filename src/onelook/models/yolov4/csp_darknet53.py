"""The backbones of YOLOv4: CSPDarknet53, CSPResNeXt50 and the tiny one, all cross stage partial (CSPNet, Wang 2020).

Blocks hold their convolutions in the order of the published files: the path around a stage comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle, make_activation
from onelook.layers.rep_conv import RepConv, RepResidual
from onelook.layers.spp import SamePaddingMaxPool
from onelook.models.detector import Backbone

if TYPE_CHECKING:
    from onelook.types import Pyramid

Join = Callable[[int], nn.Module]
"""Channels -> what sums a residual path and its input."""

Unit = Literal["dark", "dark_rep", "reversed", "reversed_rep"]

GROUPS = 32  # of every 3x3 in a residual unit of ResNeXt-50 (Xie et al. 2017, table 1); fewer where channels are


class DarknetUnit(nn.Module):
    """1x1 to `inner` channels, 3x3 back, plus the input (YOLOv3, table 1). No activation after the sum.

    rep: whether the 3x3 is re-parameterised, with an identity branch where channels agree. It enters the sum at once,
    which is an identity already: what the plan of YOLOv7 (sec. 4.1) forbids.
    """

    def __init__(self, channels: int, inner: int, style: ConvStyle, join: Join, *, rep: bool = False) -> None:
        super().__init__()
        self.reduce = style.conv(channels, inner)
        self.expand = RepConv(inner, channels, style, identity=True) if rep else style.conv(inner, channels, 3)
        self.join = join(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.expand(self.reduce(x)), x)


class ReversedUnit(nn.Module):
    """The reversed dark block: 3x3 to `inner` channels, 1x1 back, plus the input (YOLOv7 sec. 5.4.2)."""

    def __init__(self, channels: int, inner: int, style: ConvStyle) -> None:
        super().__init__()
        self.spatial = style.conv(channels, inner, 3)
        self.point = style.conv(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(self.spatial(x))


def darknet_unit(kind: Unit, channels: int, inner: int, style: ConvStyle, join: Join) -> nn.Module:
    """A residual unit of CSPDarknet-53: 1x1 and 3x3, or "reversed"; "_rep" where the 3x3 is re-parameterised."""
    if kind == "reversed":
        return ReversedUnit(channels, inner, style)
    if kind == "reversed_rep":
        return RepResidual(channels, inner, style)
    return DarknetUnit(channels, inner, style, join, rep=kind == "dark_rep")


class ResnextUnit(nn.Module):
    """1x1, grouped 3x3, 1x1 without activation, plus the input, activation (ResNeXt, fig. 3c).

    Where the input has fewer channels, only those receive it (as published in CSPResNeXt-50).
    """

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, join: Join) -> None:
        super().__init__()
        self.reduce = style.conv(inputs, outputs)
        self.spatial = style.conv(outputs, outputs, 3, groups=gcd(GROUPS, outputs))
        self.expand = style.conv(outputs, outputs, activation="identity")
        self.join = join(outputs)
        self.activation = make_activation(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.join(self.expand(self.spatial(self.reduce(x))), x))


@dataclass(frozen=True)
class Widths:
    """Channels of a stage: behind `down`; where the path through the units begins; of the other path; of the join."""

    inputs: int
    enter: int
    around: int
    outputs: int


class CspStage(nn.Module):
    """A part of the channels around a chain of units, the rest through it, joined by a 1x1 (CSPNet, fig. 3a).

    down: what changes the resolution before the stage; the identity where the stem did.  entry: activation of the
    convolutions that begin the two paths, None for the style's.
    """

    def __init__(
        self, down: nn.Module, units: nn.Module, widths: Widths, style: ConvStyle, *, entry: str | None = None
    ) -> None:
        super().__init__()
        self.down = down
        self.around = style.conv(widths.inputs, widths.around, activation=entry)
        self.enter = style.conv(widths.inputs, widths.enter, activation=entry)
        self.units = units
        self.leave = style.conv(widths.around, widths.around)
        self.join = style.conv(2 * widths.around, widths.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        around = self.around(x)
        return self.join(torch.cat((self.leave(self.units(self.enter(x))), around), 1))


class _Stages(Backbone):
    """A stem and stages, of which the last three are given: strides 8, 16 and 32."""

    strides = (8, 16, 32)
    stem: nn.Module
    stages: nn.ModuleList

    def forward(self, pixels: Tensor) -> Pyramid:
        x, levels = self.stem(pixels), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return tuple(levels[-3:])

    def first_convolution(self) -> nn.Conv2d:
        return next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))


class CspDarknet53(_Stages):
    """CSPDarknet-53 (YOLOv4 sec. 3.4, table 1; Scaled-YOLOv4 sec. 3.1).

    width: factor on all channels; the stem's 32 do not grow.  depth: on the units of all stages, rounded up.
    first: whether the first stage is cross stage partial (YOLOv4), with all channels on both paths, or one plain
    residual unit (YOLOv4-CSP), which costs less.  unit: see `darknet_unit`.
    """

    def __init__(
        self, width: float, depth: float, style: ConvStyle, join: Join, *, first: bool, unit: Unit = "dark"
    ) -> None:
        super().__init__()
        stem, *channels = (int(c * width) for c in (32, 64, 128, 256, 512, 1024))
        stem = min(stem, 32)
        self.channels = tuple(channels[2:])
        self.stem = style.conv(3, stem, 3)
        stages: list[nn.Module] = []
        inputs = stem
        for number, (outputs, units) in enumerate(zip(channels, (1, 2, 8, 8, 4))):
            down = style.conv(inputs, outputs, 3, 2)
            if number:
                half, count = outputs // 2, ceil(units * depth)
                chain = nn.Sequential(*(darknet_unit(unit, half, half, style, join) for _ in range(count)))
                stages.append(CspStage(down, chain, Widths(outputs, half, half, outputs), style))
            elif first:
                chain = nn.Sequential(darknet_unit(unit, outputs, outputs // 2, style, join))
                stages.append(CspStage(down, chain, Widths(outputs, outputs, outputs, outputs), style))
            else:
                stages.append(nn.Sequential(down, darknet_unit(unit, outputs, outputs // 2, style, join)))
            inputs = outputs
        self.stages = nn.ModuleList(stages)


class CspResnext50(_Stages):
    """CSPResNeXt-50 (CSPNet, table 1; YOLOv4, table 1).

    width, depth: as in `CspDarknet53`. The convolutions that enter a stage have no activation in the second and third
    (as published).
    """

    def __init__(self, width: float, depth: float, style: ConvStyle, join: Join) -> None:
        super().__init__()
        stem, *channels = (int(c * width) for c in (64, 128, 256, 512, 1024))
        self.channels = tuple(2 * c for c in channels[1:])
        self.stem = nn.Sequential(style.conv(3, stem, 7, 2), SamePaddingMaxPool(2, 2))
        stages = []
        inputs = enter = stem
        for number, (own, units) in enumerate(zip(channels, (3, 3, 5, 2))):
            down: nn.Module = nn.Identity()
            if number:
                down = style.conv(inputs, own, 3, 2, groups=gcd(GROUPS, own))
                inputs = enter = own
            chain = nn.Sequential(
                *(ResnextUnit(enter if unit == 0 else own, own, style, join) for unit in range(ceil(units * depth)))
            )
            entry = "identity" if number in (1, 2) else None
            stages.append(CspStage(down, chain, Widths(inputs, enter, own, 2 * own), style, entry=entry))
            inputs = 2 * own
        self.stages = nn.ModuleList(stages)


class TinyCsp(nn.Module):
    """The block of YOLOv4-tiny: a 3x3, whose second half goes through two more, twice kept (CSPOSANet).

    Gives ([x, t], t): all of the block, 2 * channels, and its last 1x1 alone, which finer levels of the neck take.
    """

    def __init__(self, channels: int, style: ConvStyle) -> None:
        super().__init__()
        half = channels // 2
        self.enter = style.conv(channels, channels, 3)
        self.first = style.conv(half, half, 3)
        self.second = style.conv(half, half, 3)
        self.join = style.conv(channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        first = self.first(x[:, x.shape[1] // 2 :])
        joined = self.join(torch.cat((self.second(first), first), 1))
        return torch.cat((x, joined), 1), joined


class CspTiny(Backbone):
    """The backbone of YOLOv4-tiny (Scaled-YOLOv4, sec. 3.3): three blocks, each followed by a max-pool."""

    strides = (8, 16, 32)

    def __init__(self, width: float, style: ConvStyle) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (int(c * width) for c in (32, 64, 128, 256, 512))
        self.channels = (c3, c4, c5)
        self.stem = nn.Sequential(style.conv(3, c1, 3, 2), style.conv(c1, c2, 3, 2))
        self.block2 = TinyCsp(c2, style)
        self.block3 = TinyCsp(c3, style)
        self.block4 = TinyCsp(c4, style)
        self.pool = SamePaddingMaxPool(2, 2)
        self.last = style.conv(c5, c5, 3)

    def forward(self, pixels: Tensor) -> Pyramid:
        x, _ = self.block2(self.stem(pixels))
        x, c3 = self.block3(self.pool(x))
        x, c4 = self.block4(self.pool(x))
        return c3, c4, self.last(self.pool(x))

    def first_convolution(self) -> nn.Conv2d:
        return next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))
