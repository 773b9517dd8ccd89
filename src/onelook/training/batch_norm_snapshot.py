"""A snapshot of the batch-norm statistics, restored where a training step is skipped."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress

import torch
from torch import Tensor, nn

_SMALL = 1 << 16  # elements; smaller tensors are copied together, larger ones get a kernel each


class BatchNormSnapshot:
    """A copy of a module's statistics (all floating-point buffers), to undo the forward passes of a skipped step.

    Call `save` before the forward passes of a step, `restore_unless` after them. Neither synchronises with the device.
    """

    def __init__(self, module: nn.Module) -> None:
        self._now = [buffer.view(-1) for buffer in module.buffers() if buffer.is_floating_point()]
        self._before = [row.clone() for row in self._now]
        # A few kernels for hundreds of small tensors; copies of large ones (the buffers of Cbn) would cost more.
        small = [len(row) <= _SMALL for row in self._now]
        self._small = list(compress(self._now, small)), list(compress(self._before, small))
        large = [not one for one in small]
        self._large = list(zip(compress(self._now, large), compress(self._before, large)))

    def save(self) -> None:
        """Copies the present statistics."""
        if self._now:
            torch._foreach_copy_(self._before, self._now)

    def restore_unless(self, step_is_finite: Tensor) -> None:
        """Restores the saved statistics unless `step_is_finite` (one bool on the module's device) is true."""
        if not self._now:
            return
        if step_is_finite.device.type == "cuda":
            self.restore_on_device(step_is_finite)
        elif not bool(step_is_finite):
            torch._foreach_copy_(self._now, self._before)

    def restore_on_device(self, step_is_finite: Tensor) -> None:
        """The same, without reading `step_is_finite` on the host."""
        now, before = self._small
        if now:
            chosen = torch.where(step_is_finite, torch.cat(now), torch.cat(before))
            torch._foreach_copy_(now, chosen.split([len(row) for row in now]))
        for row, saved in self._large:
            torch.where(step_is_finite, row, saved, out=row)


def all_finite(tensors: Iterable[Tensor | None], device: torch.device) -> Tensor:
    """Whether all elements of some tensors are finite: one bool on their device. None counts as finite."""
    found = [tensor for tensor in tensors if tensor is not None and tensor.numel()]
    if not found:
        return torch.ones((), dtype=torch.bool, device=device)
    return torch.stack(torch._foreach_norm(found, torch.inf)).isfinite().all()
