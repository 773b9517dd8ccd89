"""Sums and means over the processes of a distributed training; with one process they return their input.

Every process must call them in the same order. No function synchronises with the device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """Returns the number of processes in the training, 1 if it is not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """Returns the mean of a tensor over all processes, without gradient."""
    processes = num_processes()
    if processes == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / processes


def sum_over_processes(value: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes; the gradient is also summed over them."""
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
