"""From predictions to a few weighted numbers: an assigner says who learns what, terms say how far off it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from onelook.ops.gather import gather_rows
from onelook.ops.precision import at_least_float32
from onelook.ops.reduce import mean_over_processes
from onelook.types import Matches, Predictions, Targets


class Assigner(Protocol):
    """Who learns what. No gradient flows through it."""

    def __call__(self, predictions: Predictions, targets: Targets) -> Matches: ...


@runtime_checkable
class Term(Protocol):
    """One weighted part of a loss, under the name that logs show.

    `needs` names what a head must give besides boxes and classes ("objectness"); a recipe checks it when it is made.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, pairs: Pairs) -> Tensor:
        """The term of a batch, a scalar, without its weight."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """Predictions and the objects they answer for: what the terms of a loss share, gathered once.

    (B, P) pairs, of which `valid` are real. Padded pairs hold a unit box on both sides, so that no term can make a NaN
    of them; their sums are masked. Everything is float32 at least.
    """

    predictions: Predictions
    targets: Targets
    matches: Matches
    across_processes: bool = True

    @property
    def valid(self) -> Tensor:
        """(B, P) bool."""
        return self.matches.valid

    @cached_property
    def boxes(self) -> Tensor:
        """(B, P, 4) predicted boxes, xyxy pixels."""
        return self._rows_or_unit(self.predictions.boxes, self.matches.priors)

    @cached_property
    def target_boxes(self) -> Tensor:
        """(B, P, 4) boxes of the objects, xyxy pixels."""
        return self._rows_or_unit(self.targets.boxes, self.matches.objects).to(self.boxes.dtype)

    @cached_property
    def classes(self) -> Tensor:
        """(B, P, C) class logits."""
        return at_least_float32(gather_rows(self.predictions.classes, self.matches.priors))

    @cached_property
    def labels(self) -> Tensor:
        """(B, P) int64 class of the object."""
        if self.targets.labels.shape[1] == 0:
            return torch.zeros_like(self.matches.objects)
        return gather_rows(self.targets.labels, self.matches.objects)

    @cached_property
    def count(self) -> Tensor:
        """What sums are divided by: the positives of the batch, at least 1, a scalar.

        With several processes it is their mean, so that a loss does not depend on how many share a batch. Official
        YOLOX lets each process divide by its own count (`across_processes=False`).
        """
        count = self.valid.sum().to(self.boxes.dtype)
        return (mean_over_processes(count) if self.across_processes else count).clamp(min=1.0)

    def total(self, values: Tensor) -> Tensor:
        """The sum over real pairs of `values` (B, P) or (B, P, ...), divided by `count`."""
        valid = self.valid.reshape(self.valid.shape + (1,) * (values.dim() - 2))
        return torch.where(valid, values, 0.0).sum() / self.count

    def _rows_or_unit(self, boxes: Tensor, index: Tensor) -> Tensor:
        boxes = at_least_float32(boxes)
        unit = torch.arange(4, device=boxes.device).div(2, rounding_mode="floor").to(boxes.dtype)  # 0, 0, 1, 1
        if boxes.shape[1] == 0:
            return unit.expand(*index.shape, 4)
        return torch.where(self.valid.unsqueeze(-1), gather_rows(boxes, index), unit)


@dataclass(frozen=True)
class DetectionLoss:
    """An assigner and a tuple of weighted terms.

    across_processes: whether sums are divided by the mean count of positives of all processes (see `Pairs.count`).
    """

    assigner: Assigner
    terms: tuple[Term, ...]
    across_processes: bool = True

    def __call__(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Every term's name and weighted value, a float32 scalar on the device; the loss is their sum."""
        return self.of(Pairs(predictions, targets, self.assigner(predictions, targets), self.across_processes))

    def of(self, pairs: Pairs) -> dict[str, Tensor]:
        """The same for pairs that are known."""
        return {term.name: term.weight * term(pairs) for term in self.terms}

    def plus(self, *terms: Term) -> DetectionLoss:
        """This loss and more terms."""
        return replace(self, terms=self.terms + terms)

    def needs(self) -> Mapping[str, str]:
        """What the head must give -> the first part that asks for it."""
        asked: dict[str, str] = {}
        for part in (self.assigner, *self.terms):
            for need in getattr(part, "needs", ()):
                asked.setdefault(need, type(part).__name__)
        return asked
