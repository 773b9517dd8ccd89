"""From predictions to a few weighted numbers: an assigner says who learns what, terms say how far off it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from onelook.losses.adversarial import no_object_loss
from onelook.ops.gather import gather_rows
from onelook.ops.precision import at_least_float32
from onelook.ops.reduce import mean_over_processes
from onelook.types import Matches, Predictions, Targets

Emphasis = Literal["pairs", "scores", "quality"]
"""What a pair counts: 1, the highest class score of its prior at present, or the assigner's quality."""


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

    @cached_property
    def certainty(self) -> Tensor:
        """(B, P) the highest class score of the pair's prior, without gradient."""
        return self.classes.detach().amax(-1).sigmoid()

    def emphasis(self, by: Emphasis) -> Tensor:
        """(B, P) what every pair counts, 0 for padding; no gradient."""
        if by == "pairs":
            return self.valid.to(self.boxes.dtype)
        return torch.where(self.valid, self.certainty if by == "scores" else self.matches.quality, 0.0)

    def divisor(self, by: Emphasis) -> Tensor:
        """The sum of what the pairs of the batch count, at least 1, a scalar (processes as in `count`)."""
        if by == "pairs":
            return self.count
        total = self.emphasis(by).sum()
        return (mean_over_processes(total) if self.across_processes else total).clamp(min=1.0)

    def weighted(self, values: Tensor, by: Emphasis) -> Tensor:
        """The mean of `values` (B, P) over real pairs, each counted by `by`."""
        return torch.where(self.valid, values * self.emphasis(by), 0.0).sum() / self.divisor(by)

    @cached_property
    def level_shares(self) -> Tensor:
        """(B, P) one divided by the pairs of the pair's level in the batch, 0 for padding (processes as in `count`)."""
        priors = self.predictions.priors
        if not priors.shapes:
            raise TypeError("means over levels need priors that say the shapes of their levels")
        level = priors.levels[self.matches.priors]
        valid = self.valid.to(self.boxes.dtype)
        counts = valid.new_zeros(len(priors.shapes)).scatter_add_(0, level.flatten(), valid.flatten())
        if self.across_processes:
            counts = mean_over_processes(counts)
        return valid / counts.where(counts > 0, 1.0)[level]

    def per_level(self, values: Tensor) -> Tensor:
        """The mean of `values` (B, P) over the pairs of each level, added over the levels."""
        return torch.where(self.valid, values * self.level_shares, 0.0).sum()

    def _rows_or_unit(self, boxes: Tensor, index: Tensor) -> Tensor:
        boxes = at_least_float32(boxes)
        unit = torch.arange(4, device=boxes.device).div(2, rounding_mode="floor").to(boxes.dtype)  # 0, 0, 1, 1
        if boxes.shape[1] == 0:
            return unit.expand(*index.shape, 4)
        return torch.where(self.valid.unsqueeze(-1), gather_rows(boxes, index), unit)


@dataclass(frozen=True)
class Auxiliary:
    """How an auxiliary head learns beside the lead head (YOLOv7 sec. 4.2, fig. 5).

    weight: on top of the terms' own.  assigner: who learns what; None takes the lead head's matches over (fig. 5d;
    both heads then need the same priors).  guide: the head whose predictions the assigner looks at: "own" is the
    independent assigner of fig. 5c, "lead" the coarse-to-fine one of fig. 5e.  terms: None for those of the lead head.
    """

    weight: float = 0.25
    assigner: Assigner | None = None
    guide: Literal["lead", "own"] = "lead"
    terms: tuple[Term, ...] | None = None

    def matches(self, lead: Predictions, auxiliary: Predictions, targets: Targets, known: Matches) -> Matches:
        """The pairs of the auxiliary head; `known` are those of the lead head."""
        if self.assigner is None:
            return known
        return self.assigner(lead if self.guide == "lead" else auxiliary, targets)


@dataclass(frozen=True)
class DetectionLoss:
    """An assigner and a tuple of weighted terms.

    across_processes: whether sums are divided by the mean count of positives of all processes (see `Pairs.count`).
    auxiliary: the loss of the head's auxiliary predictions, None for none.  scale: what every term is multiplied by
    (official YOLOv7 multiplies by the images of a step and keeps its learning rate for every batch).
    """

    assigner: Assigner
    terms: tuple[Term, ...]
    across_processes: bool = True
    auxiliary: Auxiliary | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for term in self.terms:
            if not term.weight >= 0:
                raise ValueError(f"weights are not negative; that of {term.name} is {term.weight}")

    def __call__(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """Every term's name and weighted value, a float32 scalar on the device; the loss is their sum.

        Terms of the auxiliary head come after the others, as "auxiliary_" and their name. Raises TypeError where they
        are wanted and the predictions have none.
        """
        matches = self.assigner(predictions, targets)
        losses = self.of(Pairs(predictions, targets, matches, self.across_processes))
        extra = self.auxiliary
        if extra is None:
            return losses
        if predictions.auxiliary is None:
            raise TypeError("the loss has an auxiliary part, and the head gives no auxiliary predictions")
        matches = extra.matches(predictions, predictions.auxiliary, targets, matches)
        pairs = Pairs(predictions.auxiliary, targets, matches, self.across_processes)
        terms = self.terms if extra.terms is None else extra.terms
        weighted = {f"auxiliary_{term.name}": self.scale * extra.weight * term.weight * term(pairs) for term in terms}
        return losses | weighted

    def of(self, pairs: Pairs) -> dict[str, Tensor]:
        """The terms of the lead head, for pairs that are known."""
        return {term.name: self.scale * term.weight * term(pairs) for term in self.terms}

    def adversarial_loss(self, predictions: Predictions) -> Tensor:
        """What self-adversarial training lowers by altering the picture (see `no_object_loss`)."""
        return no_object_loss(predictions)

    def with_terms(self, *terms: Term) -> DetectionLoss:
        """This loss and more terms."""
        return replace(self, terms=self.terms + terms)

    def needs(self) -> Mapping[str, str]:
        """What the head must give -> the first part that asks for it."""
        parts: list[object] = [self.assigner, *self.terms]
        asked: dict[str, str] = {}
        if self.auxiliary is not None:
            asked["auxiliary"] = type(self.auxiliary).__name__
            parts += [self.auxiliary.assigner, *(self.auxiliary.terms or ())]
        for part in parts:
            for need in getattr(part, "needs", ()):
                asked.setdefault(need, type(part).__name__)
        return asked
