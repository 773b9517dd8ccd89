"""Task-aligned assignment (TAL of TOOD, Feng et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cost import inside_boxes, no_pairs, probabilities
from onelook.ops.gather import best_of_each
from onelook.ops.iou import pairwise_iou
from onelook.ops.precision import at_least_float32
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class TaskAligned:
    """Assigns an object to the priors of highest alignment score^alpha * IoU^beta (TOOD sec. 3.2).

    candidates: how many priors an object takes, of those whose points lie inside the box.
    alpha, beta: exponents of the object's class score and of the IoU of the predicted box.

    A prior of several objects goes to the one it overlaps most. The quality is the alignment, scaled so that the best
    aligned prior of an object gets the greatest IoU among its priors; the paper weights pairs by it, and trains the
    first epochs with `Atss`. P is M * `candidates`.
    """

    candidates: int = 13
    alpha: float = 1.0
    beta: float = 6.0

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates is at least 1, not {self.candidates}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, P), computed in float32 at least."""
        boxes = at_least_float32(targets.boxes)
        num_objects, num_priors = boxes.shape[1], predictions.boxes.shape[1]
        if num_objects == 0 or num_priors == 0:
            return no_pairs(predictions)
        inside = inside_boxes(predictions.priors, boxes, targets.valid)
        iou = pairwise_iou(boxes, at_least_float32(predictions.boxes)).masked_fill_(~inside, 0.0)
        image = torch.arange(len(boxes), device=boxes.device).unsqueeze(1)
        score = probabilities(predictions, None)[image, targets.labels]
        alignment = score.pow_(self.alpha).mul_(iou**self.beta)
        best, rows = alignment.topk(min(self.candidates, num_priors), 2)
        overlap = iou.gather(2, rows)
        shape = rows.shape
        valid = best_of_each(rows.flatten(1), overlap.flatten(1), (best > 0).flatten(1), num_priors)
        quality = self._scaled(best, overlap, valid.view(shape)).flatten(1)
        objects = torch.arange(num_objects, device=boxes.device).repeat_interleave(shape[2]).expand_as(valid)
        return Matches(rows.flatten(1).where(valid, 0), objects.where(valid, 0), quality, valid)

    def _scaled(self, alignment: Tensor, overlap: Tensor, valid: Tensor) -> Tensor:
        """Scales alignments (B, M, K) so that an object's maximum is its greatest IoU; 0 for invalid pairs."""
        alignment, overlap = alignment.where(valid, 0.0), overlap.where(valid, 0.0)
        highest = alignment.amax(2, keepdim=True)
        return alignment / highest.where(highest > 0, 1.0) * overlap.amax(2, keepdim=True)
