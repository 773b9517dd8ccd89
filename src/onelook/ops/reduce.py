"""Sums and means over the processes of a distributed training, and the identity where there is one process.

Every process must call them in the same order. Nothing here waits for a device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    processes = num_processes()
    if processes == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / processes


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""
    return value if num_processes() == 1 else _Sum.apply(value)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
