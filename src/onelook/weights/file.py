"""Memory-mapped files, slices of them as tensors, and atomic writing."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from onelook import run_files
from onelook.errors import WeightsError, missing_weights, reason_of
from onelook.files import replacing
from onelook.weights.problems import UnreadableFile, byte_size

_LARGEST_FILE = 8_000_000_000  # bytes; training checkpoints of the largest models are below 3 GB
MOST_DIMENSIONS = 16


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The whole file as a memory map: pages are read when they are touched, and writing to the view never reaches it.

    Raises WeightsError for what is not a regular, readable, non-empty file of a plausible size.
    """
    name = os.fspath(path)
    try:
        # Opening a pipe would wait for a writer, so the kind of file is asked for first, and again of what was opened.
        _check_kind(name, os.stat(name))
        with open(name, "rb") as file:
            _check_kind(name, os.fstat(file.fileno()))
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except FileNotFoundError as error:
        raise missing_weights(name) from error
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise WeightsError(f"'{name}' cannot be opened: {reason}.", "Check the path and its permissions.") from error


def _check_kind(name: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        best = os.path.join(name, run_files.BEST_WEIGHTS)
        remedy = f"Name a file inside it: {best}" if os.path.isfile(best) else "Name a file inside it."
        raise WeightsError(f"'{name}' is a folder, not a weights file.", remedy)
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"'{name}' is not a regular file.", "Copy the weights into a file first.")
    if status.st_size == 0:
        raise WeightsError(f"'{name}' is empty.", "Download or copy it again.")
    if status.st_size > _LARGEST_FILE:
        size = byte_size(status.st_size)
        raise WeightsError(f"'{name}' has {size}, more than any weights file that is read.", "Check the path.")


def tensor_from(data: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The bytes of `data` as a tensor of this shape: a view where the machine can read it in place, else a copy."""
    count = prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    size = dtype.itemsize
    flat = torch.frombuffer(data, dtype=torch.uint8, count=count * size)
    if flat.data_ptr() % size:
        flat = flat.clone()
    return flat.view(dtype).reshape(shape)


def check_shape(shape: object, what: str) -> tuple[int, ...]:
    """`shape` as a tuple of non-negative ints of a sane number and size; UnreadableFile names `what` otherwise."""
    if not isinstance(shape, list | tuple) or len(shape) > MOST_DIMENSIONS:
        raise UnreadableFile(f"{what} has no proper shape")
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 1 << 48 for side in shape):
        raise UnreadableFile(f"{what} has a shape that is not made of sizes")
    claimed = prod(side or 1 for side in shape)  # an empty tensor has strides too, which PyTorch computes
    if claimed >= 1 << 48:
        raise UnreadableFile(f"{what} claims {claimed} elements")
    return tuple(shape)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """The name of a file to write, which takes the place of `path` at the end: a crash leaves the previous one whole.

    Makes the folders. WeightsError if the place cannot be written.
    """
    try:
        with replacing(path) as temporary:
            yield str(temporary)
    except OSError as error:
        reason = reason_of(error)
        raise WeightsError(f"'{path}' cannot be written: {reason}.", "Check the place and its free space.") from error
