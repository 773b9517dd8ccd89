"""Focus, the stem of YOLOv5 and YOLOX: space-to-depth, then a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


def space_to_depth(images: Tensor) -> Tensor:
    """Rearranges (B, C, H, W) to (B, 4C, H/2, W/2): every 2x2 square becomes channels.

    The blocks of C channels are top left, bottom left, top right, bottom right: the order of all published weights.
    """
    top, bottom = images[..., ::2, :], images[..., 1::2, :]
    return torch.cat((top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]), 1)


class SpaceToDepth(nn.Module):
    """Space-to-depth ("ReOrg" in YOLOv7's code): every 2x2 square of pixels becomes channels."""

    def forward(self, images: Tensor) -> Tensor:
        return space_to_depth(images)


class Focus(nn.Module):
    """Focus: space-to-depth, then one convolution; halves the resolution and keeps all pixel values (YOLOv5's stem)."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, kernel: int = 3) -> None:
        super().__init__()
        self.rearrange = SpaceToDepth()
        self.conv = style.conv(4 * inputs, outputs, kernel)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.rearrange(images))
