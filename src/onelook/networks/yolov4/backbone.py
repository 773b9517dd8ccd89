"""Common parts of YOLOv4's backbones: CSP stages (CSPNet, Wang et al. 2020); and the backbone of YOLOv4-tiny.

Blocks define their convolutions in the order of the published files: the path around a stage comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.spp import SamePaddingMaxPool
from onelook.networks.detector import Backbone

if TYPE_CHECKING:
    from onelook.types import Pyramid


Join = Callable[[int], nn.Module]
"""Function of the channels; returns the module that sums a residual path and its input."""


@dataclass(frozen=True)
class Widths:
    """Channels of a CSP stage: after `down`; at the start of the unit path; of the path around it; of the output."""

    inputs: int
    enter: int
    around: int
    outputs: int


class CspStage(nn.Module):
    """CSP stage: one path through residual units, one around them, joined by a 1x1 (CSPNet, fig. 3b).

    down: changes the resolution before the stage; the identity directly after the stem.  entry: activation of the first
    convolutions of both paths, None for the style's.
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


class CspBackbone(Backbone):
    """Base class: a stem and stages; returns the outputs of the last three, of strides 8, 16 and 32."""

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


class TinyCsp(nn.Module):
    """The block of YOLOv4-tiny (CSPOSANet): a 3x3 whose second half of channels passes two more 3x3 and a 1x1.

    Returns ([x, t], t): the whole output of 2 * channels, and that of the last 1x1 alone, which the neck uses.
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
    """The backbone of YOLOv4-tiny (Scaled-YOLOv4, sec. 4.2): three blocks, each followed by a max-pool."""

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
