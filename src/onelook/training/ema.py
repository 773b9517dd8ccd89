"""Exponential moving average (EMA) of a model's weights: the weights that are evaluated and saved."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Ema:
    """Settings of the EMA: the decay of update u is decay * (1 - exp(-u / warmup)).

    decay: limit of the decay.  warmup: updates after which it has reached 63 % of its limit, so that the first, random
    weights soon have no influence. YOLOX: 0.9998 and 2000; YOLOv7 and DAMO-YOLO use the same form.
    first: u of the first update. With 0 the EMA starts as the weights after the first step (DAMO-YOLO).
    start: part of the training, 0 to 1, before which the average is the weights themselves (Darknet: 0.5, no warm-up).
    statistics: whether those of batch norm are averaged too; else they are the present ones (Darknet).
    last_steps: of the training, before which the average replaces the weights; they are trained on without an average,
    so that the statistics of batch norm become theirs (Darknet: 1000).
    """

    decay: float = 0.9998
    warmup: float = 2000.0
    first: int = 1
    start: float = 0.0
    statistics: bool = True
    last_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay lies in [0, 1), not {self.decay}")
        if self.warmup < 0:
            raise ValueError(f"warmup is a number of updates, not {self.warmup}")
        if self.first < 0:
            raise ValueError(f"first is 0 or more, not {self.first}")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start is a part of the training, 0 to 1, not {self.start}")
        if self.last_steps < 0:
            raise ValueError(f"last_steps is 0 or more, not {self.last_steps}")

    def at(self, update: int) -> float:
        """The decay of an update, counted from 1."""
        shifted = update - 1 + self.first
        return self.decay * (1.0 - math.exp(-shifted / self.warmup)) if self.warmup else self.decay


class ModelEma:
    """A copy of a model whose weights are the EMA of the trained ones; batch-norm statistics too, if so set.

    Integer entries of the state (batch counters) keep their first values. `model` is a complete detector in evaluation
    mode, which can be evaluated, saved or deployed at any time.
    """

    def __init__(self, model: nn.Module, settings: Ema) -> None:
        self.settings = settings
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged, self._copied = self._tensors(self.model)
        self._source: nn.Module | None = None
        self._source_averaged: list[torch.Tensor] = []
        self._source_copied: list[torch.Tensor] = []

    @torch.no_grad()
    def update(self, model: nn.Module, progress: float = 1.0, *, averages: bool = True) -> None:
        """Moves the EMA towards the present weights of `model`, without a synchronisation with the device.

        progress: part of the training that was done before this step; before `start`, the weights are copied.
        averages: False copies the weights, too.
        The tensors of `model` are collected once and must be changed in place only: collecting hundreds of them takes
        longer than averaging them.
        """
        if model is not self._source:
            self._source = model
            self._source_averaged, self._source_copied = self._tensors(model)
        if self._copied:
            torch._foreach_copy_(self._copied, self._source_copied)
        if progress < self.settings.start or not averages:
            torch._foreach_copy_(self._averaged, self._source_averaged)
            return
        self.updates += 1
        torch._foreach_lerp_(self._averaged, self._source_averaged, 1.0 - self.settings.at(self.updates))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Sets the averaged tensors of `model` to the average."""
        torch._foreach_copy_(self._tensors(model)[0], self._averaged)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights; the caller saves `updates` beside them."""
        return self.model.state_dict()

    def load_state_dict(self, weights: dict[str, torch.Tensor], updates: int) -> None:
        """Restores the averaged weights and the number of updates."""
        self.model.load_state_dict(weights)
        self.updates = updates

    def _tensors(self, model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The tensors of a model's state that are averaged, and those that are copied."""
        named = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        averaged = [tensor for name, tensor in named.items() if self.settings.statistics or name in parameters]
        copied = [tensor for name, tensor in named.items() if not (self.settings.statistics or name in parameters)]
        return averaged, copied
