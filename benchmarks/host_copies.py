"""Counts the operations that read a value of a tensor on the host, on a CPU.

On a GPU each of them waits for all work before it (`torch.cuda.set_sync_debug_mode` finds them there). A CPU has
nothing to wait for, but the same operations are dispatched: they are counted as they pass.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import onelook

_PACKAGE = Path(onelook.__file__).parent

# What returns a value to the host, or has a result whose shape depends on values.
READS = frozenset(
    {
        "_local_scalar_dense",  # .item(), bool(), float(), int() of a tensor
        "nonzero",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "equal",
        "is_nonzero",
        "bincount",
        "histc",
    }
)
# A tensor made of Python numbers: on a GPU a copy from memory that is not pinned, which waits and cannot be captured.
CREATES = frozenset({"lift_fresh", "lift_fresh_copy"})
_WITH_MASK = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class HostCopies(TorchDispatchMode):
    """Counts, while it is active, by "operation (file:function of the package)".

    reads: operations whose result the host needs.  created: tensors made of Python numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.created: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or (name in _WITH_MASK and _has_mask(args[1])):
            self.reads[f"{name} ({_caller()})"] += 1
        elif name in CREATES:
            self.created[f"{name} ({_caller()})"] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Sequence[torch.Tensor | None]) -> bool:
    """Whether a tensor is indexed by a mask: the number of its true values is then read."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _caller() -> str:
    """file:function of the innermost frame of the package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE).as_posix()}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
