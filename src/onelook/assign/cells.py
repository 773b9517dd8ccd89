"""Cells around the centres of objects: what assigners by position share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def per_level(numbers: Sequence[float], like: Tensor) -> Tensor:
    """(L,) numbers on the device and in the dtype of `like`, made there: a copy from the host would wait for it."""
    return torch.stack([like.new_full((), number) for number in numbers])


def smallest_object_wins(rows: Tensor, boxes: Tensor, wanted: Tensor, num_priors: int) -> Tensor:
    """Which wishes are granted where several objects want one prior: those of the smallest object (FCOS, sec. 3.2).

    rows: (B, M, K) priors that each object wants.  boxes: (B, M, 4).  wanted: (B, M, K) bool, the rest is padding.
    Among equals the first object wins.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    order = sides.prod(-1).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    rank = rank.unsqueeze(2).expand_as(rows)
    nobody = boxes.shape[1]
    best = rank.new_full((len(boxes), num_priors), nobody)
    best.scatter_reduce_(1, rows.flatten(1), torch.where(wanted, rank, nobody).flatten(1), "amin")
    return wanted & (best.gather(1, rows.flatten(1)).view_as(rank) == rank)
