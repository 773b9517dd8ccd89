"""How pixels enter a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle


def space_to_depth(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 4C, H/2, W/2): every 2x2 square becomes channels, column by column.

    The blocks of C channels are top left, bottom left, top right, bottom right: the order of all published weights.
    """
    top, bottom = images[..., ::2, :], images[..., 1::2, :]
    return torch.cat((top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]), 1)


class Focus(nn.Module):
    """Space to depth, then one convolution: half the resolution without losing a pixel (YOLOv5's stem)."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, kernel: int = 3) -> None:
        super().__init__()
        self.conv = style.conv(4 * inputs, outputs, kernel)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(space_to_depth(images))
