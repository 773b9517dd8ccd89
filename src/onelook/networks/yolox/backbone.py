"""The two backbones of YOLOX: CSPDarknet (sec. 2.2, from YOLOv5) and Darknet-53 with SPP (sec. 2.1, YOLOv3-SPP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.csp import Bottleneck, CspStage
from onelook.layers.focus import Focus
from onelook.layers.spp import Spp
from onelook.networks.branched_structure import DarknetStage
from onelook.networks.detector import Backbone

if TYPE_CHECKING:
    from onelook.types import Pyramid


class _FourStages(Backbone):
    """Base class: a stem of stride 2 and stages of strides 4 to 32; returns C3, C4 and C5."""

    strides = (8, 16, 32)
    stem: nn.Module
    stage2: nn.Module
    stage3: nn.Module
    stage4: nn.Module
    stage5: nn.Module

    def forward(self, pixels: Tensor) -> Pyramid:
        c3 = self.stage3(self.stage2(self.stem(pixels)))
        c4 = self.stage4(c3)
        return c3, c4, self.stage5(c4)

    def first_convolution(self) -> nn.Conv2d:
        return next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))


def csp_darknet_sizes(channels: int, depth: int) -> tuple[DarknetStage, ...]:
    """The stages of the published CSPDarknets, behind a stem of `channels`; every stage doubles them.

    depth: bottlenecks of the first and last stage; those between have 3 times as many.
    """
    return tuple(DarknetStage(channels * 2**level, depth * (1 if level in (1, 4) else 3)) for level in range(1, 5))


class CspDarknet(_FourStages):
    """CSPDarknet with Focus stem; its last stage has SPP and no shortcuts.

    channels: of the stem.  stages: of strides 4, 8, 16 and 32.
    """

    def __init__(self, channels: int, stages: Sequence[DarknetStage], style: ConvStyle) -> None:
        super().__init__()
        c2, c3, c4, c5 = (stage.outputs for stage in stages)
        d2, d3, d4, d5 = (stage.depth for stage in stages)
        self.channels = (c3, c4, c5)
        self.stem = Focus(3, channels, style)
        self.stage2 = nn.Sequential(style.spatial(channels, c2, stride=2), CspStage(c2, c2, d2, style))
        self.stage3 = nn.Sequential(style.spatial(c2, c3, stride=2), CspStage(c3, c3, d3, style))
        self.stage4 = nn.Sequential(style.spatial(c3, c4, stride=2), CspStage(c4, c4, d4, style))
        self.stage5 = nn.Sequential(
            style.spatial(c4, c5, stride=2), Spp(c5, c5, style), CspStage(c5, c5, d5, style, shortcut=False)
        )


class Darknet53(_FourStages):
    """Darknet-53 (YOLOv3, table 1) whose last stage ends in the five convolutions and the SPP of YOLOv3-SPP.

    depth, width: factors on the residual blocks (at least one in a stage) and on the channels; published with 1 only.
    """

    def __init__(self, style: ConvStyle, depth: float = 1.0, width: float = 1.0) -> None:
        super().__init__()
        c0, c1, c2, c3, c4, c5 = (int(32 * width * 2**level) for level in range(6))
        self.channels = (c3, c4, c4)

        def blocks(inputs: int, outputs: int, count: int) -> Iterator[nn.Module]:
            return _residuals(inputs, outputs, max(round(count * depth), 1), style)

        self.stem = nn.Sequential(style.conv(3, c0, 3), *blocks(c0, c1, 1))
        self.stage2 = nn.Sequential(*blocks(c1, c2, 2))
        self.stage3 = nn.Sequential(*blocks(c2, c3, 8))
        self.stage4 = nn.Sequential(*blocks(c3, c4, 8))
        self.stage5 = nn.Sequential(
            *blocks(c4, c5, 4),
            style.conv(c5, c4),
            style.conv(c4, c5, 3),
            Spp(c5, c4, style),
            style.conv(c4, c5, 3),
            style.conv(c5, c4),
        )


def _residuals(inputs: int, outputs: int, count: int, style: ConvStyle) -> Iterator[nn.Module]:
    yield style.conv(inputs, outputs, 3, stride=2)
    for _ in range(count):
        yield Bottleneck(outputs, outputs, outputs // 2, style)
