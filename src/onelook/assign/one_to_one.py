"""One-to-one assignment for heads that need no NMS."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from onelook.assign.cells import smallest_object_wins
from onelook.assign.cost import no_pairs
from onelook.ops.gather import gather_rows
from onelook.ops.iou import box_iou, pairwise_iou
from onelook.ops.precision import at_least_float32
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class OneToOne:
    """Assigns an object to the one prior that predicts it best (Zhou et al. 2021, sec. 3.2; YOLOX table 2, "NMS-free").

    iou_power: a of the quality score^(1 - a) * IoU^a, with the score of the object's class.
    radius: half side of the centre region, in strides, that contains the prior.

    YOLOX's paper refers to Zhou et al. for all details. Chosen here: the region is that of SimOTA, so that the prior
    mostly is a positive of the object anyway; each object takes its best prior, and a prior of two objects goes to the
    smaller one (Zhou et al. compute the best pairing as a whole). So an object may have no prior. P is M, and the
    quality is the IoU of the pair.
    """

    iou_power: float = 0.8
    radius: float = 2.5

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, M)."""
        boxes, priors = at_least_float32(targets.boxes), predictions.priors
        if boxes.shape[1] == 0 or not len(priors.points):
            return no_pairs(predictions)
        x, y = priors.points.to(boxes.dtype).unbind(-1)
        reach = self.radius * priors.strides.to(boxes.dtype)
        left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)
        near = ((x - (left + right) / 2).abs_() < reach) & ((y - (top + bottom) / 2).abs_() < reach)
        near &= targets.valid.unsqueeze(-1)
        predicted = at_least_float32(predictions.boxes)
        iou = pairwise_iou(boxes, predicted)
        scores = at_least_float32(predictions.scores()).transpose(1, 2)
        labels = targets.labels.unsqueeze(-1).expand(-1, -1, scores.shape[2])
        quality = scores.gather(1, labels) ** (1 - self.iou_power) * iou**self.iou_power
        best, rows = quality.nan_to_num_(0.0).masked_fill_(~near, -1.0).max(-1)
        found = (best >= 0).unsqueeze(2)
        valid = smallest_object_wins(rows.unsqueeze(2), boxes, found, len(priors.points)).squeeze(2)
        rows = torch.where(valid, rows, 0)
        objects = torch.where(valid, torch.arange(boxes.shape[1], device=boxes.device).expand_as(rows), 0)
        pair_iou = box_iou(gather_rows(predicted, rows), gather_rows(boxes, objects))
        return Matches(rows, objects, torch.where(valid, pair_iou, 0.0), valid)
