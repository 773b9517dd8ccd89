"""Selection of rows in padded batches. Shapes are fixed, so that the device never waits for the host."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Returns the rows `index` (B, P) of `values` (B, N, ...) in each image: (B, P, ...)."""
    if values.dim() == 2:
        return values.gather(1, index)
    if values.device.type == "cpu":
        # Whole rows are copied at once; `gather` would look up every number.
        first = torch.arange(len(values)).unsqueeze(1) * values.shape[1]
        return values.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
    shape = index.shape + values.shape[2:]
    return values.gather(1, index.reshape(index.shape + (1,) * (values.dim() - 2)).expand(shape))


def pack(mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Returns the indices of the true columns of `mask` (B, N), (B, capacity) int64, and which of them are valid.

    Indices ascend within an image; the rest is padding that points at column 0. Columns beyond `capacity` are dropped,
    so it must be an upper bound. A cumulative sum gives each position: nothing is sorted or copied to the host.
    """
    count = mask.cumsum(1)
    place = torch.where(mask, count - 1, capacity).clamp_(max=capacity)  # position `capacity` collects the false ones
    columns = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    index = columns.new_zeros(mask.shape[0], capacity + 1).scatter_(1, place, columns)[:, :capacity]
    return index, torch.arange(capacity, device=mask.device) < count[:, -1:]


def best_of_each(rows: Tensor, scores: Tensor, valid: Tensor, num_rows: int) -> Tensor:
    """Returns (B, P) bool: of all valid columns that point at one row, the column with the highest score.

    Of equal scores the first column is taken.  rows: (B, P) int64 below `num_rows`.  scores: (B, P) float.
    valid: (B, P) bool.
    """
    valid_scores = scores.masked_fill(~valid, -torch.inf)
    best = scores.new_full((len(rows), num_rows), -torch.inf).scatter_reduce_(1, rows, valid_scores, "amax")
    wins = valid & (valid_scores == best.gather(1, rows))
    column = torch.arange(rows.shape[1], device=rows.device).expand_as(rows).masked_fill(~wins, rows.shape[1])
    first = rows.new_full((len(rows), num_rows), rows.shape[1]).scatter_reduce_(1, rows, column, "amin")
    return wins & (first.gather(1, rows) == column)
