"""An exponential moving average of a model's weights: what is evaluated and saved."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Ema:
    """Settings of the average: at update u its decay is decay * (1 - exp(-u / warmup)).

    decay: limit of the decay.  warmup: updates after which it has reached 63 % of its limit, so that an early average
    forgets the first, random weights. YOLOX: 0.9998 and 2000; the same form serves YOLOv7 and DAMO-YOLO.
    first: what u of the first update is. With 0 the average begins as the weights after the first step (DAMO-YOLO).
    """

    decay: float = 0.9998
    warmup: float = 2000.0
    first: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay lies in [0, 1), not {self.decay}")
        if self.warmup < 0:
            raise ValueError(f"warmup is a number of updates, not {self.warmup}")
        if self.first < 0:
            raise ValueError(f"first is 0 or more, not {self.first}")

    def at(self, update: int) -> float:
        """The decay of an update, counted from 1."""
        passed = update - 1 + self.first
        return self.decay * (1.0 - math.exp(-passed / self.warmup)) if self.warmup else self.decay


class ModelEma:
    """The running average of a model: every floating-point entry of its state, batch-norm statistics included.

    Integer entries (batch counters) keep the values they had at the start. `model` is a whole detector in evaluation
    mode, to be evaluated, saved or deployed at any time.
    """

    def __init__(self, model: nn.Module, settings: Ema) -> None:
        self.settings = settings
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._mine = _floating(self.model)
        self._followed: nn.Module | None = None
        self._theirs: list[torch.Tensor] = []

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`'s present weights, without waiting for the device.

        The tensors of a model that is followed must stay where they are (change them in place): collecting hundreds of
        them takes longer than averaging them.
        """
        if model is not self._followed:
            self._followed, self._theirs = model, _floating(model)
        self.updates += 1
        torch._foreach_lerp_(self._mine, self._theirs, 1.0 - self.settings.at(self.updates))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights; `updates` is saved beside them by the caller."""
        return self.model.state_dict()

    def load_state_dict(self, weights: dict[str, torch.Tensor], updates: int) -> None:
        """Continues an average from its saved weights and its number of updates."""
        self.model.load_state_dict(weights)
        self.updates = updates


def _floating(model: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
