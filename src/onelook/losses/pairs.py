"""Matched pairs of prediction and object, and what makes and uses them: the protocols of assigner and loss term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from onelook.ops.gather import gather_rows
from onelook.ops.precision import at_least_float32
from onelook.ops.reduce import mean_over_processes
from onelook.types import Matches, Predictions, Targets

Emphasis = Literal["pairs", "scores", "quality"]
"""The weight of a pair: 1, the current highest class score of its prior, or the assigner's quality."""


class Assigner(Protocol):
    """Label assignment: matches priors with objects. No gradient flows through it."""

    def __call__(self, predictions: Predictions, targets: Targets) -> Matches: ...


@runtime_checkable
class Term(Protocol):
    """One weighted term of a loss; logs show its name.

    `needs` lists what a head must provide besides boxes and classes ("objectness"); a recipe checks it when it is made.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, pairs: Pairs) -> Tensor:
        """Returns the value of the term for a batch, a scalar, without its weight."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """Matched pairs of prediction and object, gathered once for all terms of a loss.

    (B, P) pairs; `valid` masks the padding. Padded pairs contain a unit box on both sides, so that no term becomes NaN,
    and are left out of all sums. Everything is float32 at least.
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
    def objectness(self) -> Tensor:
        """(B, N) objectness logits of all priors. Raises TypeError for a head without objectness."""
        if self.predictions.objectness is None:
            raise TypeError("an objectness term needs a head with objectness")
        return at_least_float32(self.predictions.objectness)

    @cached_property
    def has_object(self) -> Tensor:
        """(B, N) 1 for a prior with an object, else 0."""
        # Padded pairs point at row 0 and add 0 there.
        counts = torch.zeros_like(self.objectness)
        return counts.scatter_add_(1, self.matches.priors, self.valid.to(counts.dtype)).clamp_(max=1.0)

    @cached_property
    def class_quality(self) -> Tensor:
        """(B, P, C) the pair's quality for the class of its object, 0 for the other classes."""
        quality = self.matches.quality.to(self.classes.dtype).unsqueeze(-1)
        return torch.zeros_like(self.classes).scatter_(2, self.labels.unsqueeze(-1), quality)

    def without_ignored(self, values: Tensor) -> Tensor:
        """Returns `values` (B, N) of all priors, 0 where the assigner ignores the prior."""
        ignored = self.matches.ignored
        return values if ignored is None else values.masked_fill(ignored, 0.0)

    @cached_property
    def labels(self) -> Tensor:
        """(B, P) int64 class of the object."""
        if self.targets.labels.shape[1] == 0:
            return torch.zeros_like(self.matches.objects)
        return gather_rows(self.targets.labels, self.matches.objects)

    @cached_property
    def count(self) -> Tensor:
        """The number of positives of the batch, at least 1, a scalar: sums are divided by it.

        With several processes it is their mean, so that the loss does not depend on the number of processes. In
        official YOLOX each process divides by its own count (`across_processes=False`).
        """
        count = self.valid.sum().to(self.boxes.dtype)
        return (mean_over_processes(count) if self.across_processes else count).clamp(min=1.0)

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum over valid pairs of `values` (B, P) or (B, P, ...), divided by `count`."""
        valid = self.valid.reshape(self.valid.shape + (1,) * (values.dim() - 2))
        return torch.where(valid, values, 0.0).sum() / self.count

    @cached_property
    def certainty(self) -> Tensor:
        """(B, P) the highest class score of the pair's prior, without gradient."""
        return self.classes.detach().amax(-1).sigmoid()

    def emphasis(self, by: Emphasis) -> Tensor:
        """Returns the weight (B, P) of every pair, 0 for padding; no gradient."""
        if by == "pairs":
            return self.valid.to(self.boxes.dtype)
        return torch.where(self.valid, self.certainty if by == "scores" else self.matches.quality, 0.0)

    def divisor(self, by: Emphasis) -> Tensor:
        """Returns the sum of the weights of all pairs of the batch, at least 1, a scalar (processes as in `count`)."""
        if by == "pairs":
            return self.count
        total = self.emphasis(by).sum()
        return (mean_over_processes(total) if self.across_processes else total).clamp(min=1.0)

    def weighted(self, values: Tensor, by: Emphasis) -> Tensor:
        """Returns the mean of `values` (B, P) over valid pairs, weighted by `by`."""
        return torch.where(self.valid, values * self.emphasis(by), 0.0).sum() / self.divisor(by)

    @cached_property
    def level_shares(self) -> Tensor:
        """(B, P) one divided by the pairs of the pair's level in the batch, 0 for padding (processes as in `count`)."""
        priors = self.predictions.priors
        if not priors.shapes:
            raise TypeError("means over levels need priors with grid shapes (`Priors.shapes` is empty)")
        level = priors.levels[self.matches.priors]
        valid = self.valid.to(self.boxes.dtype)
        counts = valid.new_zeros(len(priors.shapes)).scatter_add_(0, level.flatten(), valid.flatten())
        if self.across_processes:
            counts = mean_over_processes(counts)
        return valid / counts.where(counts > 0, 1.0)[level]

    def per_level(self, values: Tensor) -> Tensor:
        """Returns the sum over the levels of the mean of `values` (B, P) over the pairs of a level."""
        return torch.where(self.valid, values * self.level_shares, 0.0).sum()

    def _rows_or_unit(self, boxes: Tensor, index: Tensor) -> Tensor:
        boxes = at_least_float32(boxes)
        unit = torch.arange(4, device=boxes.device).div(2, rounding_mode="floor").to(boxes.dtype)  # 0, 0, 1, 1
        if boxes.shape[1] == 0:
            return unit.expand(*index.shape, 4)
        return torch.where(self.valid.unsqueeze(-1), gather_rows(boxes, index), unit)
