"""What one pass of the network takes, and several of them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from onelook.types import Targets


class Batch(Protocol):
    """A batch as the loader gives it: uint8 RGB (B, 3, H, W), the objects in pixels of it, rows of the data set."""

    @property
    def images(self) -> Tensor: ...

    @property
    def targets(self) -> Targets: ...

    @property
    def indices(self) -> Sequence[int]: ...


@dataclass(frozen=True, eq=False)
class Joined:
    """Several batches as one."""

    images: Tensor
    targets: Targets
    indices: tuple[int, ...]


def join(batches: Sequence[Batch]) -> Joined:
    """The batches one after the other; their objects are padded to the longest."""
    most = max(batch.targets.valid.shape[1] for batch in batches)

    def column(name: str) -> Tensor:
        parts = [getattr(batch.targets, name) for batch in batches]
        padding = [part.new_zeros(len(part), most - part.shape[1], *part.shape[2:]) for part in parts]
        return torch.cat([torch.cat(pair, 1) for pair in zip(parts, padding)])

    shares = None if batches[0].targets.shares is None else column("shares")
    targets = Targets(column("boxes"), column("labels"), column("valid"), shares)
    rows = tuple(int(row) for batch in batches for row in batch.indices)
    return Joined(torch.cat([batch.images for batch in batches]), targets, rows)
