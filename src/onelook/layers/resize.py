"""Changes of resolution without parameters."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def upsample(x: Tensor) -> Tensor:
    """Doubles height and width by nearest-neighbour interpolation."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes a map to another level's `size`: nearest neighbour up, max-pooling down."""
    if (x.shape[2], x.shape[3]) == size:
        return x
    if x.shape[2] > size[0]:
        factor = x.shape[2] // size[0]
        return F.max_pool2d(x, factor, factor)
    return F.interpolate(x, scale_factor=float(size[0] // x.shape[2]), mode="nearest")
