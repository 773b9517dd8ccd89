"""Clipping of the gradient's norm, relative to the norms of the steps before (after AutoClip, Seetharaman 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RelativeClip:
    """Scales a gradient down to `factor` times the usual norm: a moving average over `memory` steps.

    The first step is not clipped. A clipped gradient counts in the average with its clipped norm, so that an outlier
    changes it little. AutoClip takes a percentile of all norms so far; norms of a detector fall by two orders in the
    first steps, so that an average of the last ones is used here.
    """

    factor: float = 5.0
    memory: int = 50

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise ValueError(f"factor is at least 1, not {self.factor}")
        if self.memory < 1:
            raise ValueError(f"memory is a number of steps, at least 1, not {self.memory}")

    def apply(self, parameters: Sequence[nn.Parameter], usual: Tensor) -> None:
        """Clips the gradients in place and updates `usual`, a float32 scalar on their device, 0 before the first step.

        The device never waits. A norm that is not finite changes nothing: such a step is skipped.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        norm = nn.utils.get_total_norm(gradients).float()
        limit = torch.where(usual > 0, self.factor * usual, norm)
        clipped = torch.minimum(norm, limit)
        known = norm.isfinite() & (norm > 0)
        ratio = torch.where(known, clipped / norm.clamp(min=1e-12), torch.ones_like(norm))
        torch._foreach_mul_(gradients, ratio)
        weight = torch.where(usual > 0, torch.full_like(norm, 1 / self.memory), torch.ones_like(norm))
        usual.copy_(torch.where(known, usual + weight * (clipped - usual), usual))
