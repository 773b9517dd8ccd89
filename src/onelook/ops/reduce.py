"""Averages over the processes of a distributed training, and the identity where there is one process."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor without gradient over all processes; every process must call it, in the same order."""
    processes = num_processes()
    if processes == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / processes
