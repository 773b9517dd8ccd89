"""CSPDarknet53, the backbone of YOLOv4, with the residual units of Darknet-53."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.rep_conv import RepConv, RepResidual
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


class CspDarknet53(CspBackbone):
    """CSPDarknet-53 (YOLOv4 sec. 3.1; Scaled-YOLOv4 sec. 4.1).

    width: factor on all channels; the stem has at most 32.  depth: factor on the units of all stages, rounded up.
    first: whether the first stage is cross stage partial (YOLOv4), with all channels on both paths, or one plain
    residual unit (YOLOv4-CSP), which is cheaper.  unit: see `darknet_unit`.
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
