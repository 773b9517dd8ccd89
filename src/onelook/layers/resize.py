"""Changes of resolution without parameters."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
