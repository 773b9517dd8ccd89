"""DropBlock (Ghiasi et al. 2018): dropout of squares of a feature map, as neighbouring values are correlated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from onelook.types import Pyramid


def drop_block(x: Tensor, probability: Tensor | float, size: int) -> Tensor:
    """Sets random squares of (B, C, H, W) to 0, separately for each channel, and rescales the rest of each image.

    probability: share of the values to drop; a tensor is read on its device.  size: side of the squares, at most the
    sides of the map. The rate of square centres is eq. 1 of the paper; overlapping squares drop a little less than
    `probability`. If no value is left, the image is 0. Random numbers come from PyTorch's generator of the device.
    """
    height, width = x.shape[-2:]
    size = min(size, height, width)
    rows, columns = height - size + 1, width - size + 1
    rate = probability * (height * width / (size * size * rows * columns))
    corners = (torch.rand(*x.shape[:2], rows, columns, device=x.device) < rate).float()
    dropped = F.max_pool2d(F.pad(corners, (size - 1,) * 4), size, stride=1)
    kept = 1 - dropped
    gain = kept[0].numel() / kept.sum((1, 2, 3), keepdim=True).clamp(min=1.0)
    return x * (kept * gain).to(x.dtype)


class DropBlocks(nn.Module):
    """DropBlock on every level of a pyramid, in training only.

    The training sets `probability` as it progresses; it starts at 0.
    """

    probability: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("probability", torch.zeros(()), persistent=False)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        if not self.training:
            return pyramid
        return tuple(drop_block(features, self.probability, self.size) for features in pyramid)

    def deploy(self) -> nn.Module:
        """Returns the identity: DropBlock is for training only."""
        return nn.Identity()
