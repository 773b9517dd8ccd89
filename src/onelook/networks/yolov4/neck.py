"""Common parts of YOLOv4's necks, and the neck of YOLOv4-tiny. `pan` and `bifpn` are the other necks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from onelook.layers.asff import Asff
from onelook.layers.conv import ConvStyle
from onelook.layers.resize import upsample
from onelook.layers.sfam import Sfam
from onelook.networks.detector import Backbone, Neck

if TYPE_CHECKING:
    from onelook.types import Pyramid


Fusion = Literal["asff", "sfam"]


class DarknetFileOrder:
    """Base class of necks: the order of their modules in Darknet's files.

    The published networks are sequences of layers, in which the prediction layers of the head stand between modules of
    the neck.
    """

    parts: tuple[tuple[str, ...], ...]
    """Names of the neck's modules before the first prediction layer of the file, before the second, and so on."""


class TinyFpn(Neck, DarknetFileOrder):
    """FPN of YOLOv4-tiny: top-down only, one 3x3 for each level; two levels, or three with stride 8 (yolov4-tiny-3l).

    Concatenates [upsampled, lateral], in the other order than `Pan`. Every level ends in a 3x3. The next finer level
    uses its output, except for the coarsest level, whose map before the 3x3 is used.
    """

    def __init__(self, backbone: Backbone, width: float, style: ConvStyle, *, levels: int) -> None:
        super().__init__()
        c3, c4, c5 = backbone.channels
        p5, p4, p3 = (int(c * width) for c in (256, 128, 64))
        self.channels = (p4, p5, c5)[-levels:]
        self.strides = backbone.strides[-levels:]
        self.reduce = style.conv(c5, p5)
        self.expand5 = style.conv(p5, c5, 3)
        self.reduce5 = style.conv(p5, p4)
        self.join4 = style.conv(p4 + c4, p5, 3)
        self.parts = (("reduce", "expand5"), ("reduce5", "join4"), ("reduce4", "join3"))[:levels]
        if levels == 3:
            self.reduce4 = style.conv(p5, p3)
            self.join3 = style.conv(p3 + c3, p4, 3)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        c3, c4, c5 = pyramid
        x = self.reduce(c5)
        p5 = self.expand5(x)
        p4 = self.join4(torch.cat((upsample(self.reduce5(x)), c4), 1))
        if len(self.channels) == 2:
            return p4, p5
        return self.join3(torch.cat((upsample(self.reduce4(p4)), c3), 1)), p4, p5


def fusion_block(fusion: Fusion | None, channels: tuple[int, ...], style: ConvStyle) -> nn.Module:
    """Makes the module of this name that fuses the levels of a pyramid; the identity for None."""
    if fusion is None:
        return nn.Identity()
    return Asff(channels, style) if fusion == "asff" else Sfam(channels, style)
