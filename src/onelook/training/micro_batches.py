"""Micro-batches: the inputs of one forward pass, joined into larger ones or split into smaller ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from onelook.types import Targets


class Batch(Protocol):
    """A batch from the loader: images uint8 RGB (B, 3, H, W), targets in their pixels, rows of the data set."""

    @property
    def images(self) -> Tensor: ...

    @property
    def targets(self) -> Targets: ...

    @property
    def indices(self) -> Sequence[int]: ...


@dataclass(frozen=True, eq=False)
class JoinedBatch:
    """Several batches, joined into one."""

    images: Tensor
    targets: Targets
    indices: tuple[int, ...]


def split_batch(batch: Batch, size: int) -> Iterator[tuple[Tensor, Targets]]:
    """Splits a batch into parts of `size` images (the last may be smaller), each padded to its own longest."""
    targets_of_all = batch.targets
    for first in range(0, len(batch.images), size):
        rows = slice(first, first + size)
        most = int(targets_of_all.valid[rows].any(0).sum())  # objects come first, padding behind them
        shares = None if targets_of_all.shares is None else targets_of_all.shares[rows, :most]
        targets = Targets(
            targets_of_all.boxes[rows, :most],
            targets_of_all.labels[rows, :most],
            targets_of_all.valid[rows, :most],
            shares,
        )
        yield batch.images[rows], targets


def join_batches(batches: Sequence[Batch]) -> JoinedBatch:
    """Joins batches, in order; their objects are padded to the longest."""
    most = max(batch.targets.valid.shape[1] for batch in batches)

    def column(name: str) -> Tensor:
        parts = [getattr(batch.targets, name) for batch in batches]
        padding = [part.new_zeros(len(part), most - part.shape[1], *part.shape[2:]) for part in parts]
        return torch.cat([torch.cat(pair, 1) for pair in zip(parts, padding)])

    shares = None if batches[0].targets.shares is None else column("shares")
    targets = Targets(column("boxes"), column("labels"), column("valid"), shares)
    rows = tuple(int(row) for batch in batches for row in batch.indices)
    return JoinedBatch(torch.cat([batch.images for batch in batches]), targets, rows)
