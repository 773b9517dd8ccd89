"""Helpers of assigners that choose grid cells by an object's position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def per_level(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Returns the numbers as a tensor (L,) of the device and dtype of `like`, without a copy from the host."""
    return torch.stack([like.new_full((), number) for number in numbers])


def smallest_object_wins(rows: Tensor, boxes: Tensor, claims: Tensor, num_priors: int) -> Tensor:
    """Resolves conflicts: a prior that several objects claim goes to the smallest object (FCOS, sec. 3.2).

    rows: (B, M, K) priors that each object claims.  boxes: (B, M, 4).  claims: (B, M, K) bool, the rest is padding.
    Returns (B, M, K) bool, the claims that hold. Of objects of equal area the first one wins.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    order = sides.prod(-1).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    rank = rank.unsqueeze(2).expand_as(rows)
    unclaimed = boxes.shape[1]
    best = rank.new_full((len(boxes), num_priors), unclaimed)
    best.scatter_reduce_(1, rows.flatten(1), torch.where(claims, rank, unclaimed).flatten(1), "amin")
    return claims & (best.gather(1, rows.flatten(1)).view_as(rank) == rank)
