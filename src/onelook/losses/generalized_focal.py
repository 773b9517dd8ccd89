"""The terms of the generalised focal loss (GFL, Li et al. 2020): quality focal loss and distribution focal loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onelook.losses.pairs import Emphasis, Pairs
from onelook.ops.gather import gather_rows
from onelook.ops.precision import at_least_float32

_MARGIN = 0.1  # bins that a target stays below the last one, so that there is always a bin above it


@dataclass(frozen=True)
class QualityFocal:
    """Quality focal loss: cross-entropy of every class and prior, times |target - score| ** `focus` (GFL sec. 3.2).

    The target of a pair's class is the pair's quality, all others are 0. If a prior has several pairs of one class, the
    greatest quality is used. Priors that the assigner ignores are left out.  divided_by: divisor of the sum: the number
    of pairs (DAMO-YOLO), or the sum of their qualities (TOOD).  smoothing: e makes the targets of priors that have a
    pair t * (1 - e) + e / 2, as in `Classes`; those of other priors stay 0.
    """

    weight: float = 1.0
    focus: float = 2.0
    divided_by: Emphasis = "pairs"
    smoothing: float = 0.0
    name: str = "classes"

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is in [0, 1), not {self.smoothing}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, pairs: Pairs) -> Tensor:
        logits = at_least_float32(pairs.predictions.classes)
        target = _targets(pairs, logits)
        if self.smoothing:
            paired = torch.zeros_like(logits[..., 0])
            paired.scatter_reduce_(1, pairs.matches.priors, pairs.valid.to(logits.dtype), "amax")
            target = torch.lerp(target, torch.full_like(target, 0.5), self.smoothing * paired.unsqueeze(-1))
        loss = binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = loss * (target - logits.sigmoid()).abs() ** self.focus
        if pairs.matches.ignored is not None:
            loss = loss.masked_fill(pairs.matches.ignored.unsqueeze(-1), 0.0)
        return loss.sum() / pairs.divisor(self.divided_by)


def _targets(pairs: Pairs, logits: Tensor) -> Tensor:
    """Returns (B, N, C): the greatest quality of the pairs of each prior and class; 0 without a pair."""
    place = pairs.matches.priors * logits.shape[2] + pairs.labels
    quality = torch.where(pairs.valid, pairs.matches.quality.to(logits.dtype), 0.0)  # padding adds 0 to the first place
    return torch.zeros_like(logits).flatten(1).scatter_reduce_(1, place, quality, "amax").view_as(logits)


@dataclass(frozen=True)
class DistributionFocal:
    """Distribution focal loss: cross-entropy of a side's distribution against the two nearest bins (GFL eq. 6).

    Mean over the four sides and the pairs. Distances are in strides of the prior, from 0 to just below the last bin.
    emphasis: weight of a pair in the mean.
    """

    weight: float = 0.25
    emphasis: Emphasis = "scores"
    name: str = "distribution"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("bins",)

    def __call__(self, pairs: Pairs) -> Tensor:
        rows = pairs.matches.priors
        logits = at_least_float32(gather_rows(pairs.predictions.regression, rows)).unflatten(-1, (4, -1))
        target = side_distances(pairs, logits.shape[-1])
        low = target.long()
        above = target - low
        log_share = logits.log_softmax(-1)
        near, far = (log_share.gather(-1, bins.unsqueeze(-1)).squeeze(-1) for bins in (low, low + 1))
        return pairs.weighted(-(near * (1 - above) + far * above).mean(-1), self.emphasis)


def side_distances(pairs: Pairs, bins: int) -> Tensor:
    """Returns (B, P, 4): distances from a pair's prior to the object's left, top, right and bottom side, in strides.

    Clamped to the range of `bins` bins. Raises TypeError for a single bin: a head without distributions.
    """
    if bins < 2:
        raise TypeError("this loss needs a head whose sides are distributions over bins")
    rows, priors = pairs.matches.priors, pairs.predictions.priors
    boxes = pairs.target_boxes
    points, strides = priors.points.to(boxes.dtype)[rows], priors.strides.to(boxes.dtype)[rows].unsqueeze(-1)
    distances = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1) / strides
    return distances.clamp(0, bins - 1 - _MARGIN)
