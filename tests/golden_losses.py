"""The golden assignments and losses of the reference, as predictions and targets."""

from __future__ import annotations

import numpy as np
import torch

from onelook.ops.priors import grid_priors
from onelook.types import Priors, Targets


def level_priors(height: int, width: int, strides: tuple[int, ...] = (8, 16, 32)) -> Priors:
    """The cell centres of an image's levels."""
    return grid_priors([(height // stride, width // stride) for stride in strides], strides)


def targets_of(labels: np.ndarray, dtype: torch.dtype = torch.float32) -> Targets:
    """Rows (class, cx, cy, w, h), zero padded, as targets."""
    rows = torch.from_numpy(labels).to(dtype)
    centre, half = rows[..., 1:3], rows[..., 3:5] / 2
    boxes = torch.cat([centre - half, centre + half], -1)
    return Targets(boxes, rows[..., 0].long(), rows.sum(-1) > 0)
