"""Taking back what the forward pass of a step has changed, where the step comes to nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress

import torch
from torch import Tensor, nn

_SMALL = 1 << 16  # numbers of a tensor that is copied rather than given a kernel of its own


class BatchNormSnapshot:
    """Remembers a module's statistics (every buffer of floating-point numbers) from step to step.

    `keep` before a step's forward passes, `restore_unless` after them. Neither waits for an accelerator.
    """

    def __init__(self, module: nn.Module) -> None:
        self._now = [buffer.view(-1) for buffer in module.buffers() if buffer.is_floating_point()]
        self._before = [row.clone() for row in self._now]
        # A few kernels for hundreds of small tensors; large ones (what Cbn remembers) are not worth the copies.
        small = [len(row) <= _SMALL for row in self._now]
        self._small = list(compress(self._now, small)), list(compress(self._before, small))
        large = [not one for one in small]
        self._large = list(zip(compress(self._now, large), compress(self._before, large)))

    def keep(self) -> None:
        """Notes the statistics as they are."""
        if self._now:
            torch._foreach_copy_(self._before, self._now)

    def restore_unless(self, sound: Tensor) -> None:
        """Puts the noted statistics back unless `sound` (one bool, on the module's device) is true."""
        if not self._now:
            return
        if sound.device.type == "cuda":
            self.restore_on_device(sound)
        elif not bool(sound):
            torch._foreach_copy_(self._now, self._before)

    def restore_on_device(self, sound: Tensor) -> None:
        """The same without a look at `sound` on the host."""
        now, before = self._small
        if now:
            chosen = torch.where(sound, torch.cat(now), torch.cat(before))
            torch._foreach_copy_(now, chosen.split([len(row) for row in now]))
        for row, kept in self._large:
            torch.where(sound, row, kept, out=row)


def all_finite(tensors: Iterable[Tensor | None], device: torch.device) -> Tensor:
    """Whether every number of some tensors of a device is finite: one bool there. None counts as finite."""
    found = [tensor for tensor in tensors if tensor is not None and tensor.numel()]
    if not found:
        return torch.ones((), dtype=torch.bool, device=device)
    return torch.stack(torch._foreach_norm(found, torch.inf)).isfinite().all()
