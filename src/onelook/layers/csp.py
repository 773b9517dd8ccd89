"""Residual bottlenecks and the cross stage partial block around a chain of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class Bottleneck(nn.Module):
    """1x1 to `hidden` channels, 3x3 to `outputs`, plus the input (YOLOv3, table 1; ResNet, fig. 5).

    No sum where channels differ, whatever `shortcut` says. No activation after it.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, style: ConvStyle, *, shortcut: bool = True) -> None:
        super().__init__()
        self.reduce = style.conv(inputs, hidden)
        self.expand = style.spatial(hidden, outputs)
        self.shortcut = shortcut and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.reduce(x))
        return x + y if self.shortcut else y


class CspStage(nn.Module):
    """Half the channels through a chain of bottlenecks, half around it, joined by a 1x1 (CSPNet, fig. 2b).

    This is the form of YOLOv5 and YOLOX: each path starts with its own 1x1 to half of `outputs`.
    """

    def __init__(self, inputs: int, outputs: int, count: int, style: ConvStyle, *, shortcut: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        self.enter = style.conv(inputs, hidden)
        self.around = style.conv(inputs, hidden)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, hidden, hidden, style, shortcut=shortcut) for _ in range(count))
        )
        self.join = style.conv(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.blocks(self.enter(x)), self.around(x)), 1))
