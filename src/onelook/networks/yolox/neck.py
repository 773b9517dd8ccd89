"""The two necks of YOLOX: PAFPN (sec. 2.2, from YOLOv5) and the FPN of YOLOv3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from onelook.layers.conv import ConvStyle
from onelook.layers.csp import CspStage
from onelook.layers.resize import upsample
from onelook.networks.detector import Backbone, Neck

if TYPE_CHECKING:
    from onelook.types import Pyramid


class Pafpn(Neck):
    """PAFPN: top-down, then bottom-up, with a CSP stage after every concatenation (PANet, fig. 1, has sums).

    The way up concatenates the maps that the way down passed to the next finer level: level 5 the reduced C5, level 4
    the reduced output of its CSP stage.
    """

    def __init__(self, backbone: Backbone, depth: int, style: ConvStyle) -> None:
        super().__init__()
        c3, c4, c5 = self.channels = backbone.channels
        self.strides = backbone.strides

        def stage(inputs: int, outputs: int) -> CspStage:
            return CspStage(inputs, outputs, depth, style, shortcut=False)

        self.lateral5 = style.conv(c5, c4)
        self.top_down4 = stage(2 * c4, c4)
        self.lateral4 = style.conv(c4, c3)
        self.top_down3 = stage(2 * c3, c3)
        self.down3 = style.spatial(c3, c3, stride=2)
        self.bottom_up4 = stage(2 * c3, c4)
        self.down4 = style.spatial(c4, c4, stride=2)
        self.bottom_up5 = stage(2 * c4, c5)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        c3, c4, c5 = pyramid
        lateral5 = self.lateral5(c5)
        lateral4 = self.lateral4(self.top_down4(torch.cat((upsample(lateral5), c4), 1)))
        p3 = self.top_down3(torch.cat((upsample(lateral4), c3), 1))
        p4 = self.bottom_up4(torch.cat((self.down3(p3), lateral4), 1))
        p5 = self.bottom_up5(torch.cat((self.down4(p4), lateral5), 1))
        return p3, p4, p5


class Fpn(Neck):
    """FPN of YOLOv3 (sec. 2.3): top-down, five convolutions after each concatenation; the coarsest level stays."""

    def __init__(self, backbone: Backbone, style: ConvStyle) -> None:
        super().__init__()
        c3, c4, c5 = backbone.channels
        p4, p3 = c5 // 2, c5 // 4
        self.channels = (p3, p4, c5)
        self.strides = backbone.strides
        self.lateral5 = style.conv(c5, p4)
        self.refine4 = _five_convolutions(p4 + c4, p4, style)
        self.lateral4 = style.conv(p4, p3)
        self.refine3 = _five_convolutions(p3 + c3, p3, style)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        c3, c4, c5 = pyramid
        p4 = self.refine4(torch.cat((upsample(self.lateral5(c5)), c4), 1))
        p3 = self.refine3(torch.cat((upsample(self.lateral4(p4)), c3), 1))
        return p3, p4, c5


def _five_convolutions(inputs: int, outputs: int, style: ConvStyle) -> nn.Sequential:
    return nn.Sequential(
        style.conv(inputs, outputs),
        style.conv(outputs, 2 * outputs, 3),
        style.conv(2 * outputs, outputs),
        style.conv(outputs, 2 * outputs, 3),
        style.conv(2 * outputs, outputs),
    )
