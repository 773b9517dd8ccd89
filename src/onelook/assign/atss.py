"""ATSS, adaptive training sample selection (Zhang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from onelook.assign.cost import no_pairs
from onelook.ops.gather import best_of_each, gather_rows
from onelook.ops.iou import box_iou
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Priors, Targets

_MARGIN = 0.01  # pixels that a point must lie inside a box


@dataclass(frozen=True)
class Atss:
    """ATSS: positives by an IoU threshold computed for each object from its own candidates (alg. 1).

    candidates: how many priors of each level are candidates: those nearest to the object's centre.
    scale: side of the square anchor around a point, in strides; heads with anchors use their own.

    A candidate is positive if the overlap of its anchor with the object is at least the mean plus the standard
    deviation over all the object's candidates, and its point lies inside the box. A prior that fits several objects
    goes to the one its anchor overlaps most. Predictions do not influence the matches, only the quality: the IoU of the
    predicted box, which the paper does not have. P is M times the candidates of all levels.
    """

    candidates: int = 9
    scale: float = 8.0

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.scale <= 0:
            raise ValueError("candidates is at least 1 and scale above 0")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, P), computed in float32 at least."""
        boxes = at_least_float32(targets.boxes)
        num_objects = boxes.shape[1]
        if num_objects == 0 or predictions.boxes.shape[1] == 0:
            return no_pairs(predictions)
        priors = predictions.priors
        points = priors.points.to(boxes.dtype)
        rows = self._nearest(priors, points, boxes)  # (B, M, K)
        half = (self._sides(priors, points) / 2)[rows]
        anchors = torch.cat((points[rows] - half, points[rows] + half), -1)
        overlap = box_iou(anchors, boxes.unsqueeze(2))
        threshold = overlap.mean(2, keepdim=True) + (overlap.std(2, keepdim=True) if rows.shape[2] > 1 else 0.0)
        margins = torch.cat((points[rows] - boxes[:, :, None, :2], boxes[:, :, None, 2:] - points[rows]), -1)
        positive = (overlap >= threshold) & (margins.amin(-1) > _MARGIN) & targets.valid.unsqueeze(2)

        rows, overlap = rows.flatten(1), overlap.flatten(1)
        valid = best_of_each(rows, overlap, positive.flatten(1), len(points))
        objects = torch.arange(num_objects, device=boxes.device).repeat_interleave(rows.shape[1] // num_objects)
        objects = objects.expand_as(rows).where(valid, 0)
        rows = rows.where(valid, 0)
        found = at_least_float32(gather_rows(predictions.boxes, rows)).to(boxes.dtype)
        quality = box_iou(found, gather_rows(boxes, objects)).where(valid, 0.0)
        return Matches(rows, objects, quality, valid)

    def _nearest(self, priors: Priors, points: Tensor, boxes: Tensor) -> Tensor:
        """Returns the rows (B, M, K) of the priors of every level that are nearest to each object's centre."""
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        found = []
        for start, end in pairwise(level_starts(priors)):
            # Differences, not the matrix product of `cdist`, whose rounding would order equally near points.
            distance = (centres.unsqueeze(2) - points[start:end]).square().sum(-1)
            found.append(distance.topk(min(self.candidates, end - start), 2, largest=False).indices + start)
        return torch.cat(found, 2)

    def _sides(self, priors: Priors, points: Tensor) -> Tensor:
        if priors.sizes is not None:
            return priors.sizes.to(points.dtype)
        return (self.scale * priors.strides.to(points.dtype)).unsqueeze(1).expand(-1, 2)
