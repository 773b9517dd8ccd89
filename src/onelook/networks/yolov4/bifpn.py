"""BiFPN (EfficientDet, Tan et al. 2020), a neck of YOLOv4."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.resize import upsample
from onelook.layers.weighted_sum import WeightedSum
from onelook.networks.detector import Backbone, Neck
from onelook.networks.yolov4.neck import DarknetFileOrder, Fusion, fusion_block
from onelook.networks.yolov4.pan import Context, ContextConvs

if TYPE_CHECKING:
    from onelook.types import Pyramid


class BiFpn(Neck, DarknetFileOrder):
    """BiFPN (EfficientDet sec. 3.2 and 3.3): repeated layers, top-down and bottom-up, with weighted sums.

    All levels have the same channels. 2 * `depth` layers, rounded up, follow each other. On the way up, a level also
    adds the input of the layer. Context blocks come before the layers, as in `Pan`.
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
    """One layer of `BiFpn`: Pyramid -> Pyramid, all levels with `channels`."""

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
