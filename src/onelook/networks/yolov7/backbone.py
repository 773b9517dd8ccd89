"""The backbone of YOLOv7: a stem to stride 4, then ELAN stages with downsampling blocks between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.focus import SpaceToDepth
from onelook.networks.branched_structure import Downsample, ElanStage, ElanStem
from onelook.networks.detector import Backbone
from onelook.networks.yolov7.downsample import downsample
from onelook.networks.yolov7.elan import ElanChain, ExtendedElan

if TYPE_CHECKING:
    from onelook.types import Pyramid


class ElanBackbone(Backbone):
    """ELAN backbone; returns the outputs of all stages but the first: strides 8, 16, 32 and, with five stages, 64.

    chain: of the stages that have no depth of their own.
    """

    def __init__(
        self,
        stem: ElanStem,
        stages: Sequence[ElanStage],
        *,
        chain: ElanChain,
        down: Downsample,
        style: ConvStyle,
        copies: int = 1,
    ) -> None:
        super().__init__()
        self.channels = tuple(stage.output for stage in stages[1:])
        self.strides = tuple(8 * 2**level for level in range(len(self.channels)))
        self.stem = nn.Sequential(*_stem(stem, stages[0].entry, down, style))
        self.stages = nn.ModuleList()
        for index, stage in enumerate(stages):
            own = chain if stage.depth is None else replace(chain, depth=stage.depth)
            block = ExtendedElan(
                stage.entry, stage.output, stage.block, stage.block, chain=own, style=style, copies=copies
            )
            into = [] if index == 0 else [downsample(down, stages[index - 1].output, stage.entry, style)]
            self.stages.append(nn.Sequential(*into, block))

    def forward(self, pixels: Tensor) -> Pyramid:
        x = self.stem(pixels)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs[1:])

    def first_convolution(self) -> nn.Conv2d:
        return next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))


def _stem(kind: ElanStem, outputs: int, down: Downsample, style: ConvStyle) -> list[nn.Module]:
    """Makes the layers from pixels to `outputs` channels at stride 4."""
    half = outputs // 2
    match kind:
        case "two":
            return [style.conv(3, half, 3, stride=2), style.conv(half, outputs, 3, stride=2)]
        case "four":
            return [
                style.conv(3, half // 2, 3),
                style.conv(half // 2, half, 3, stride=2),
                style.conv(half, half, 3),
                style.conv(half, outputs, 3, stride=2),
            ]
        case "space_to_depth":
            return [SpaceToDepth(), style.conv(12, half, 3), downsample(down, half, outputs, style)]
