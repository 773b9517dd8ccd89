"""PAN, the neck of YOLOv4: path aggregation by concatenation, with SPP; also its cross stage partial form.

Blocks define their convolutions in the order of the published files.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.aspp import Aspp
from onelook.layers.attention import PointwiseAttention, SpatialAttention
from onelook.layers.conv import ConvStyle
from onelook.layers.resize import upsample
from onelook.layers.rfb import Rfb
from onelook.layers.spp import PlainSpp
from onelook.networks.detector import Backbone, Neck
from onelook.networks.yolov4.neck import DarknetFileOrder, Fusion, fusion_block

if TYPE_CHECKING:
    from onelook.types import Pyramid

Context = Literal["spp", "aspp", "rfb"]
Attention = Literal["pointwise", "spatial"]


class FiveConvs(nn.Module):
    """Five convolutions, 1x1 and 3x3 alternating (YOLOv3, sec. 2.3), optionally with attention before the last.

    attention: after the second 3x3, as in YOLOv4's models with SAM.
    """

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, attention: Attention | None = None) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            style.conv(inputs, outputs),
            style.conv(outputs, 2 * outputs, 3),
            style.conv(2 * outputs, outputs),
            style.conv(outputs, 2 * outputs, 3),
        )
        self.gate = attention_block(attention, 2 * outputs, style)
        self.last = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate(self.convs(x)))


class CspConvs(nn.Module):
    """Cross stage partial form of `FiveConvs` (Scaled-YOLOv4, fig. 2): `pairs` of 1x1 and 3x3, and a path around."""

    def __init__(
        self, inputs: int, outputs: int, pairs: int, style: ConvStyle, attention: Attention | None = None
    ) -> None:
        super().__init__()
        self.enter = style.conv(inputs, outputs)
        self.around = style.conv(outputs, outputs)
        self.convs = nn.Sequential(
            *(layer for _ in range(pairs) for layer in (style.conv(outputs, outputs), style.conv(outputs, outputs, 3)))
        )
        self.gate = attention_block(attention, outputs, style)
        self.join = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        around = self.around(x)
        return self.join(torch.cat((self.gate(self.convs(x)), around), 1))


class ContextConvs(nn.Module):
    """Three convolutions, context blocks such as SPP, and three more convolutions (YOLOv4 sec. 3.1)."""

    def __init__(self, inputs: int, outputs: int, context: tuple[Context, ...], style: ConvStyle) -> None:
        super().__init__()
        self.before = nn.Sequential(
            style.conv(inputs, outputs), style.conv(outputs, 2 * outputs, 3), style.conv(2 * outputs, outputs)
        )
        self.context, joined, self.after_context = context_blocks(context, outputs, style)
        self.after = nn.Sequential(
            style.conv(joined, outputs), style.conv(outputs, 2 * outputs, 3), style.conv(2 * outputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.after_context(self.after(self.context(self.before(x))))


class CspContextConvs(nn.Module):
    """Cross stage partial form of `ContextConvs`: 1x1, 3x3, 1x1, context, `pairs` of 1x1 and 3x3; a path around all."""

    def __init__(self, inputs: int, outputs: int, pairs: int, context: tuple[Context, ...], style: ConvStyle) -> None:
        super().__init__()
        self.around = style.conv(inputs, outputs)
        self.before = nn.Sequential(
            style.conv(inputs, outputs), style.conv(outputs, outputs, 3), style.conv(outputs, outputs)
        )
        self.context, joined, self.after_context = context_blocks(context, outputs, style)
        widths = [joined] + [outputs] * (pairs - 1)
        self.after = nn.Sequential(
            *(layer for width in widths for layer in (style.conv(width, outputs), style.conv(outputs, outputs, 3)))
        )
        self.join = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        around = self.around(x)
        x = self.after(self.context(self.before(x)))
        return self.after_context(self.join(torch.cat((x, around), 1)))


def context_blocks(context: tuple[Context, ...], channels: int, style: ConvStyle) -> tuple[nn.Module, int, nn.Module]:
    """Returns the pooling block (SPP, ASPP or none), its output channels, and the block after (RFB or none)."""
    joined: nn.Module = nn.Identity()
    width = channels
    if "spp" in context:
        joined, width = PlainSpp(), 4 * channels
    elif "aspp" in context:
        joined, width = Aspp(channels, style), 4 * channels
    return joined, width, Rfb(channels, style) if "rfb" in context else nn.Identity()


def attention_block(attention: Attention | None, channels: int, style: ConvStyle) -> nn.Module:
    """Makes the attention gate of this name; the identity for None."""
    if attention is None:
        return nn.Identity()
    return PointwiseAttention(channels, style) if attention == "pointwise" else SpatialAttention(channels, style)


class Pan(Neck, DarknetFileOrder):
    """PAN (YOLOv4 sec. 3.3, fig. 6): path aggregation by concatenation, top-down, then bottom-up.

    Concatenates [lateral, upsampled] on the way down and [downsampled, way down] on the way up.
    csp: whether its blocks are cross stage partial (YOLOv4-CSP), with 2 * `depth` pairs of convolutions, rounded up.
    fusion: fuses the output levels ("asff", "sfam"), or None.
    """

    parts = (
        ("context5", "reduce5", "lateral4", "top_down4", "reduce4", "lateral3", "top_down3"),
        ("down3", "bottom_up4"),
        ("down4", "bottom_up5"),
    )

    def __init__(
        self,
        backbone: Backbone,
        style: ConvStyle,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        csp: bool = False,
        context: tuple[Context, ...] = ("spp",),
        attention: Attention | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        c3, c4, c5 = backbone.channels
        p3, p4, p5 = self.channels = (int(128 * width), int(256 * width), int(512 * width))
        self.strides = backbone.strides
        pairs = ceil(2 * depth)
        self.context5: nn.Module
        if csp:
            self.context5 = CspContextConvs(c5, p5, ceil(depth), context, style)
        else:
            self.context5 = ContextConvs(c5, p5, context, style)

        def block(inputs: int, outputs: int, attention: Attention | None = attention) -> nn.Module:
            if csp:
                return CspConvs(inputs, outputs, pairs, style, attention)
            return FiveConvs(inputs, outputs, style, attention)

        self.reduce5 = style.conv(p5, p4)
        self.lateral4 = style.conv(c4, p4)
        self.top_down4 = block(2 * p4, p4, None)  # feeds no prediction layer: no attention
        self.reduce4 = style.conv(p4, p3)
        self.lateral3 = style.conv(c3, p3)
        self.top_down3 = block(2 * p3, p3)
        self.down3 = style.conv(p3, p4, 3, 2)
        self.bottom_up4 = block(2 * p4, p4)
        self.down4 = style.conv(p4, p5, 3, 2)
        self.bottom_up5 = block(2 * p5, p5)
        self.fusion = fusion_block(fusion, self.channels, style)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        c3, c4, c5 = pyramid
        m5 = self.context5(c5)
        up5 = upsample(self.reduce5(m5))
        m4 = self.top_down4(torch.cat((self.lateral4(c4), up5), 1))
        up4 = upsample(self.reduce4(m4))
        p3 = self.top_down3(torch.cat((self.lateral3(c3), up4), 1))
        p4 = self.bottom_up4(torch.cat((self.down3(p3), m4), 1))
        p5 = self.bottom_up5(torch.cat((self.down4(p4), m5), 1))
        return self.fusion((p3, p4, p5))
