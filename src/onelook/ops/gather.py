"""Picking rows of padded batches: fixed shapes, so that a device never waits for a count."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, P) of `values` (B, N, ...), image by image: (B, P, ...)."""
    if values.dim() == 2:
        return values.gather(1, index)
    if values.device.type == "cpu":
        # Whole rows are copied at once; `gather` would look up every number.
        first = torch.arange(len(values)).unsqueeze(1) * values.shape[1]
        return values.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
    shape = index.shape + values.shape[2:]
    return values.gather(1, index.reshape(index.shape + (1,) * (values.dim() - 2)).expand(shape))


def pack(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """The columns where `mask` (B, N) is true, moved to the front: index (B, capacity) int64, and which are real.

    Ascending within an image; the rest is padding that points at column 0. What exceeds `capacity` is dropped, so give
    a bound that holds. A running count decides each place: nothing is sorted and nothing travels to the host.
    """
    count = mask.cumsum(1)
    place = torch.where(mask, count - 1, capacity).clamp_(max=capacity)  # the last place collects what is not wanted
    columns = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    index = columns.new_zeros(mask.shape[0], capacity + 1).scatter_(1, place, columns)[:, :capacity]
    return index, torch.arange(capacity, device=mask.device) < count[:, -1:]


def best_of_each(rows: Tensor, worth: Tensor, wanted: Tensor, num_rows: int) -> Tensor:
    """(B, P) which of the columns that point at the same row wins it: that of the greatest worth, of equals the first.

    rows: (B, P) int64 below `num_rows`.  worth: (B, P) float.  wanted: (B, P) bool, the columns that compete.
    """
    offered = worth.masked_fill(~wanted, -torch.inf)
    best = worth.new_full((len(rows), num_rows), -torch.inf).scatter_reduce_(1, rows, offered, "amax")
    wins = wanted & (offered == best.gather(1, rows))
    column = torch.arange(rows.shape[1], device=rows.device).expand_as(rows).masked_fill(~wins, rows.shape[1])
    first = rows.new_full((len(rows), num_rows), rows.shape[1]).scatter_reduce_(1, rows, column, "amin")
    return wins & (first.gather(1, rows) == column)
