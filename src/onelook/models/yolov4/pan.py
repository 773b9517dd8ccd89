"""The necks of YOLOv4: PAN by concatenation with SPP, its cross stage partial form, BiFPN, and that of the tiny models.

Blocks hold their convolutions in the order of the published files. A neck says in `parts` which of its modules belong
before which prediction layer there: the published networks are chains, in which the head's layers stand between.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from onelook.layers.attention import PointwiseAttention, SpatialAttention
from onelook.layers.aspp import Aspp, Rfb
from onelook.layers.conv import ConvStyle
from onelook.layers.weighted_sum import Asff, Sfam, WeightedSum
from onelook.layers.resize import upsample
from onelook.layers.spp import PlainSpp
from onelook.models.detector import Backbone, Neck

if TYPE_CHECKING:
    from onelook.types import Pyramid

Context = Literal["spp", "aspp", "rfb"]
Attention = Literal["pointwise", "spatial"]
Fusion = Literal["asff", "sfam"]


class DarknetFileOrder:
    """What the published files need to know of a neck."""

    parts: tuple[tuple[str, ...], ...]
    """Names of the neck's modules before the first prediction layer of the file, before the second, and so on."""


class FiveConvs(nn.Module):
    """Five convolutions, 1x1 and 3x3 in turn (YOLOv3, sec. 2.3); where wanted, a gate before the last.

    attention: put after the second 3x3, where YOLOv4's models with SAM have it.
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
    """The same idea, cross stage partial (Scaled-YOLOv4, fig. 3): `pairs` times 1x1 and 3x3, and a path around them."""

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
    """Three convolutions, the context blocks, three more (YOLOv4's place for SPP, sec. 3.4)."""

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
    """The same, cross stage partial: 1x1, 3x3, 1x1, context, then `pairs` of 1x1 and 3x3, and a path around."""

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
    """What stands between two chains, its output's channels, and what follows the second: RFB keeps the channels."""
    joined: nn.Module = nn.Identity()
    width = channels
    if "spp" in context:
        joined, width = PlainSpp(), 4 * channels
    elif "aspp" in context:
        joined, width = Aspp(channels, style), 4 * channels
    return joined, width, Rfb(channels, style) if "rfb" in context else nn.Identity()


def attention_block(attention: Attention | None, channels: int, style: ConvStyle) -> nn.Module:
    """The gate of that name, or the identity."""
    if attention is None:
        return nn.Identity()
    return PointwiseAttention(channels, style) if attention == "pointwise" else SpatialAttention(channels, style)


class Pan(Neck, DarknetFileOrder):
    """Path aggregation by concatenation (YOLOv4 sec. 3.4, fig. 6): top-down, then bottom-up.

    A place of the pyramid joins [lateral, upsampled] on the way down and [downsampled, way down] on the way up.
    csp: whether its blocks are cross stage partial (YOLOv4-CSP), of 2 * `depth` pairs of convolutions, rounded up.
    fusion: what exchanges between the finished levels, or None.
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


class TinyFpn(Neck, DarknetFileOrder):
    """Top-down only, one 3x3 a level (YOLOv4-tiny); two levels, or three with stride 8 (yolov4-tiny-3l).

    A place joins [upsampled, lateral]: the other way round than `Pan`. Every level ends in its 3x3, whose result the
    next finer level takes, but for the coarsest, which is taken before it.
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


class BiFpn(Neck, DarknetFileOrder):
    """Weighted bidirectional pyramid (EfficientDet sec. 3.2 and 3.3): sums with learnt weights where PAN concatenates.

    All levels have one number of channels; `repeats` such layers follow each other. A layer goes top-down, then
    bottom-up, where a level also sums what came into the layer. Context blocks stand before it, as in `Pan`.
    """

    parts = ()

    def __init__(
        self,
        backbone: Backbone,
        style: ConvStyle,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        context: tuple[Context, ...] = ("spp",),
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        channels = int(256 * width)
        self.channels = (channels,) * 3
        self.strides = backbone.strides
        c3, c4, c5 = backbone.channels
        self.context5 = ContextConvs(c5, int(512 * width), context, style)
        self.laterals = nn.ModuleList(style.conv(c, channels) for c in (c3, c4, int(512 * width)))
        self.layers = nn.Sequential(*(BiFpnLayer(channels, style) for _ in range(ceil(2 * depth))))
        self.fusion = fusion_block(fusion, self.channels, style)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        c3, c4, c5 = pyramid
        levels = tuple(lateral(x) for lateral, x in zip(self.laterals, (c3, c4, self.context5(c5))))
        return self.fusion(self.layers(levels))


class BiFpnLayer(nn.Module):
    """One layer of `BiFpn`: Pyramid -> Pyramid, all of `channels`."""

    def __init__(self, channels: int, style: ConvStyle) -> None:
        super().__init__()

        def join(sources: int) -> nn.ModuleList:
            return nn.ModuleList((WeightedSum(sources, channels), style.conv(channels, channels, 3)))

        self.down4, self.down3 = join(1), join(1)
        self.up4, self.up5 = join(2), join(1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        c3, c4, c5 = pyramid
        m4 = _joined(self.down4, c4, upsample(c5))
        p3 = _joined(self.down3, c3, upsample(m4))
        p4 = _joined(self.up4, c4, m4, self.pool(p3))
        return p3, p4, _joined(self.up5, c5, self.pool(p4))


def _joined(join: nn.ModuleList, *maps: Tensor) -> Tensor:
    weighted, conv = join
    return conv(weighted(*maps))


def fusion_block(fusion: Fusion | None, channels: tuple[int, ...], style: ConvStyle) -> nn.Module:
    """The exchange of that name between the levels of a pyramid, or the identity."""
    if fusion is None:
        return nn.Identity()
    return Asff(channels, style) if fusion == "asff" else Sfam(channels, style)
