"""CSPDarknet53, the backbone of YOLOv4, with the residual units of Darknet-53."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.rep_conv import RepConv, RepResidual
from onelook.networks.branched_structure import DarknetStage
from onelook.networks.yolov4.backbone import CspBackbone, CspStage, Join, Widths

if TYPE_CHECKING:
    pass


Unit = Literal["dark", "dark_rep", "reversed", "reversed_rep"]


class DarknetUnit(nn.Module):
    """Residual unit: 1x1 to `inner` channels, 3x3 back, plus the input (YOLOv3, table 1). No activation after the sum.

    rep: whether the 3x3 is a RepConv, with an identity branch if channels agree. As it is directly before a sum with
    the input, the planned re-parameterisation of YOLOv7 (sec. 4.1) forbids that branch.
    """

    def __init__(self, channels: int, inner: int, style: ConvStyle, join: Join, *, rep: bool = False) -> None:
        super().__init__()
        self.reduce = style.conv(channels, inner)
        self.expand = RepConv(inner, channels, style, identity=True) if rep else style.conv(inner, channels, 3)
        self.join = join(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.expand(self.reduce(x)), x)


class ReversedUnit(nn.Module):
    """Reversed dark block: 3x3 to `inner` channels, 1x1 back, plus the input (YOLOv7 sec. 5.4.2)."""

    def __init__(self, channels: int, inner: int, style: ConvStyle) -> None:
        super().__init__()
        self.spatial = style.conv(channels, inner, 3)
        self.point = style.conv(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(self.spatial(x))


def darknet_unit(kind: Unit, channels: int, inner: int, style: ConvStyle, join: Join) -> nn.Module:
    """Makes a residual unit of CSPDarknet-53: 1x1 and 3x3, or "reversed"; "_rep" has a RepConv as 3x3."""
    if kind == "reversed":
        return ReversedUnit(channels, inner, style)
    if kind == "reversed_rep":
        return RepResidual(channels, inner, style)
    return DarknetUnit(channels, inner, style, join, rep=kind == "dark_rep")


def csp_darknet53_sizes(width: float, depth: float) -> tuple[int, tuple[DarknetStage, ...]]:
    """Channels of the stem, at most 32, and the stages of the published networks.

    width: factor on all channels.  depth: factor on the units of all stages but the first, rounded up.
    """
    stem, *channels = (int(c * width) for c in (32, 64, 128, 256, 512, 1024))
    units = (1, *(ceil(units * depth) for units in (2, 8, 8, 4)))
    return min(stem, 32), tuple(map(DarknetStage, channels, units))


class CspDarknet53(CspBackbone):
    """CSPDarknet-53 (YOLOv4 sec. 3.1; Scaled-YOLOv4 sec. 4.1).

    stem: its channels.  stages: of strides 2, 4, 8, 16 and 32.  first: whether the first stage is cross stage partial
    (YOLOv4), with all channels on both paths, or plain residual units (YOLOv4-CSP), which is cheaper.  unit: see
    `darknet_unit`.
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[DarknetStage],
        style: ConvStyle,
        join: Join,
        *,
        first: bool,
        unit: Unit = "dark",
    ) -> None:
        super().__init__()
        self.channels = tuple(stage.outputs for stage in stages[2:])
        self.stem = style.conv(3, stem, 3)
        built: list[nn.Module] = []
        inputs = stem
        for number, stage in enumerate(stages):
            outputs, half = stage.outputs, stage.outputs // 2
            down = style.conv(inputs, outputs, 3, 2)
            own = half if number else outputs
            units = [darknet_unit(unit, own, half, style, join) for _ in range(stage.depth)]
            if number or first:
                built.append(CspStage(down, nn.Sequential(*units), Widths(outputs, own, own, outputs), style))
            else:
                built.append(nn.Sequential(down, *units))
            inputs = outputs
        self.stages = nn.ModuleList(built)
