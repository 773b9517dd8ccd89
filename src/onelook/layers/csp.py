"""Residual bottleneck and cross stage partial (CSP) stage, as in YOLOv5 and YOLOX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


class Bottleneck(nn.Module):
    """Residual bottleneck (YOLOv3, table 1; ResNet, fig. 5): 1x1 to `hidden` channels, 3x3 to `outputs`, plus input.

    No sum if inputs and outputs differ, also with `shortcut`. No activation after the sum.
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
    """CSP stage: half the channels pass a chain of bottlenecks, half bypass it; a 1x1 joins them (CSPNet, fig. 2b).

    This is the form of YOLOv5 (C3) and YOLOX: each path starts with its own 1x1 to half of `outputs`.
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
