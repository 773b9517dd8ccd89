"""SPPCSPC, spatial pyramid pooling inside a cross stage partial block (YOLOv7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class SppCspc(nn.Module):
    """SPPCSPC: one path with spatial pyramid pooling between convolutions, one path around it, joined by a 1x1."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, sizes: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.before = nn.Sequential(
            style.conv(inputs, outputs), style.conv(outputs, outputs, 3), style.conv(outputs, outputs)
        )
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)
        self.after = nn.Sequential(style.conv((len(sizes) + 1) * outputs, outputs), style.conv(outputs, outputs, 3))
        self.around = style.conv(inputs, outputs)
        self.join = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        y = self.after(torch.cat((y, *(pool(y) for pool in self.pools)), 1))
        return self.join(torch.cat((y, self.around(x)), 1))


class LightSppCsp(nn.Module):
    """SPPCSPC of YOLOv7-tiny, with fewer convolutions; concatenates the largest pool first, the unpooled map last."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, sizes: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.around = style.conv(inputs, outputs)
        self.enter = style.conv(inputs, outputs)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)
        self.mix = style.conv((len(sizes) + 1) * outputs, outputs)
        self.join = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        pooled = [y, *(pool(y) for pool in self.pools)]
        return self.join(torch.cat((self.mix(torch.cat(pooled[::-1], 1)), self.around(x)), 1))
