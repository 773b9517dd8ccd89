"""Distributed training in several processes, on one computer or several, as `torchrun` starts them.

    torchrun --nproc-per-node 8 -m onelook train data --model yolox-s
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host:29500 -m onelook train ...

Every process trains on its share of each batch. Devices and ranks are handled here and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from onelook.devices import choose_device
from onelook.errors import UserError
from onelook.layers.cross_mini_batch_norm import update_running
from onelook.ops.reduce import num_processes, sum_over_processes
from onelook.training.step import TrainingStep

T = TypeVar("T")

SHUTDOWN_SECONDS = 0.1  # seconds in which the threads of the communication library can finish

# Parts of error messages of the communication library after another process has ended.
_PEER_ENDED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


@dataclass(frozen=True)
class ProcessGroup:
    """The group of processes that train together, and the place of this one in it.

    rank: number of this process; 0 is the main process, which writes files and messages.  size: number of processes.
    device: of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def join_process_group(device: str | None = None) -> Iterator[ProcessGroup]:
    """Joins the process group that torchrun's environment describes, or a group of one; leaves it at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        yield ProcessGroup(rank, size, choose_device(device))
        return
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), size, chosen)
    except RuntimeError as error:
        if any(sign in str(error) for sign in _PEER_ENDED):
            raise UserError(
                f"Process {dist.get_rank()} of {size} stops because another process has ended.",
                "The cause is in the other process's message; without one, the system has killed it.",
            ) from error
        raise
    finally:
        # A thread of gloo releases the tensors of the last exchange, for which it needs Python's lock. If it is late
        # and the group is destroyed together with its DistributedDataParallel, the two wait for each other (deadlock).
        time.sleep(SHUTDOWN_SECONDS)
        dist.destroy_process_group()


def distribute(step: TrainingStep, process_group: ProcessGroup) -> nn.Module:
    """Wraps the step in DistributedDataParallel: gradients are averaged, batch-norm statistics are not."""
    if process_group.size == 1:
        return step
    devices = [process_group.device] if process_group.device.type == "cuda" else None
    renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    own_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(step, device_ids=devices, gradient_as_bucket_view=True, **own_buffers)


@torch.no_grad()
def average_statistics(*models: nn.Module) -> None:
    """Averages the batch-norm statistics over the processes, so that all evaluate and save the same model."""
    processes, flat = num_processes(), _statistics(models)
    if processes == 1 or flat is None:
        return
    dist.all_reduce(flat)
    _set_statistics(models, flat / processes)


@torch.no_grad()
def gather_statistics(*models: nn.Module) -> Tensor | None:
    """Collects the batch-norm statistics of every process: (processes, N), on the CPU of the main process.

    None in the others, and where there is one process only. Inside an epoch the statistics differ between processes.
    """
    flat = _statistics(models)
    if num_processes() == 1 or flat is None:
        return None
    rows = []
    for rank in range(num_processes()):  # one row at a time: the buffers of Cbn are many times as large as its filters
        row = flat.clone()
        dist.broadcast(row, rank)
        if dist.get_rank() == 0:
            rows.append(row.cpu())
    return torch.stack(rows) if rows else None


@torch.no_grad()
def restore_statistics(rows: Tensor, process_group: ProcessGroup, *models: nn.Module) -> None:
    """Restores this process's row of `gather_statistics`; the mean of the rows where their number differs.

    RuntimeError where the models are different ones.
    """
    _set_statistics(models, rows[process_group.rank] if len(rows) == process_group.size else rows.mean(0))


def _buffers(models: Sequence[nn.Module]) -> list[Tensor]:
    """Floating-point buffers; non-persistent ones only of the first model, which is the trained one."""
    return [
        buffer
        for number, model in enumerate(models)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point() and (number == 0 or name not in module._non_persistent_buffers_set)
    ]


def _statistics(models: Sequence[nn.Module]) -> Tensor | None:
    buffers = [buffer.flatten() for buffer in _buffers(models)]
    return torch.cat(buffers) if buffers else None


def _set_statistics(models: Sequence[nn.Module], flat: Tensor) -> None:
    buffers = _buffers(models)
    for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers])):
        buffer.copy_(part.view_as(buffer))


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true in any process. Synchronises with the device where there are several."""
    return any_process_each((flag,), device)[0]


def any_process_each(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is true in any process. Synchronises with the device where there are several."""
    if num_processes() == 1:
        return list(flags)
    votes = torch.tensor([float(flag) for flag in flags], device=device)
    dist.all_reduce(votes)
    return [vote > 0 for vote in votes.tolist()]


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks; for small objects that can be pickled."""
    found = [value] * num_processes()
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found


class SyncedBatchNorm(nn.BatchNorm2d):
    """Synchronised batch norm over all processes, on any device (`torch.nn.SyncBatchNorm` is for CUDA only).

    In evaluation, and with one process, it is ordinary batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or num_processes() == 1:
            return super().forward(input)
        count = sum_over_processes(input.new_tensor([input.numel() / input.shape[1]]))
        mean = sum_over_processes(input.sum((0, 2, 3))) / count
        centred = input - mean[:, None, None]
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            update_running(self, mean, variance, count)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            return centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]
        return centred * scale[:, None, None]


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Converts every BatchNorm2d of a model to synchronised batch norm; parameters and names stay."""
    if device.type == "cuda":
        for name, child in list(model.named_children()):
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
