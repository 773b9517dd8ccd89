"""CSPResNeXt50, a backbone of YOLOv4 (CSPNet, fig. 5; YOLOv4 sec. 3.1)."""

from __future__ import annotations

from math import ceil, gcd
from typing import TYPE_CHECKING

from torch import Tensor, nn

from onelook.layers.conv import ConvStyle, make_activation
from onelook.layers.spp import SamePaddingMaxPool
from onelook.networks.yolov4.backbone import CspBackbone, CspStage, Join, Widths

if TYPE_CHECKING:
    pass


GROUPS = 32  # of every 3x3 in a residual unit of ResNeXt-50 (Xie et al. 2017, table 1); fewer where channels are


class ResnextUnit(nn.Module):
    """Residual unit of ResNeXt: 1x1, grouped 3x3, 1x1 without activation, plus the input, activation (its fig. 3c).

    An input with fewer channels is added to the first channels only (as published in CSPResNeXt-50).
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


class CspResnext50(CspBackbone):
    """CSPResNeXt-50 (CSPNet, fig. 5; YOLOv4 sec. 3.1).

    width, depth: as in `CspDarknet53`. The first convolutions of both paths have no activation in stages two and three
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
