"""YOLOv3's assignment: one anchor box an object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cells import per_level, smallest_object_wins
from onelook.assign.cost import no_pairs
from onelook.ops.gather import gather_rows
from onelook.ops.iou import box_iou, pairwise_iou, shape_iou
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class BestAnchor:
    """Assigns an object to the anchor box of the best shape, in the cell of its centre (YOLOv3, sec. 2.1).

    ignore: a prior that is not positive but whose box overlaps an object by a greater IoU is neither positive nor
        negative (YOLOv3's 0.5; YOLOX's paper does not specify it).

    The best shape is the greatest IoU of anchor and object on a common centre, over all anchors of all levels. A prior
    that is best for two objects goes to the smaller one, so an object may have no prior. P is M, and the quality is the
    IoU of the pair.
    """

    ignore: float = 0.5

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors",)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, M) with `ignored`."""
        boxes = at_least_float32(targets.boxes)
        num_priors = len(predictions.priors.points)
        if boxes.shape[1] == 0 or num_priors == 0:
            return no_pairs(predictions)
        rows = self._rows(predictions, boxes)
        valid = smallest_object_wins(rows.unsqueeze(2), boxes, targets.valid.unsqueeze(2), num_priors).squeeze(2)
        rows = torch.where(valid, rows, 0)
        objects = torch.where(valid, torch.arange(boxes.shape[1], device=boxes.device).expand_as(rows), 0)
        predicted = at_least_float32(predictions.boxes)
        iou = box_iou(gather_rows(predicted, rows), gather_rows(boxes, objects))
        near = (pairwise_iou(boxes, predicted) > self.ignore) & targets.valid.unsqueeze(2)
        positive = torch.zeros_like(near[:, 0], dtype=torch.int64).scatter_add_(1, rows, valid.long())
        return Matches(rows, objects, torch.where(valid, iou, 0.0), valid, near.any(1) & (positive == 0))

    def _rows(self, predictions: Predictions, boxes: Tensor) -> Tensor:
        """Returns the row (B, M) of every object's best anchor in its cell."""
        priors = predictions.priors
        if priors.sizes is None:
            raise TypeError("BestAnchor needs a head with anchors")
        starts = level_starts(priors)[:-1]
        copies = len(priors.points) // sum(height * width for height, width in priors.shapes)
        firsts = [start + a * h * w for start, (h, w) in zip(starts, priors.shapes) for a in range(copies)]
        anchors = torch.stack([priors.sizes[first] for first in firsts]).to(boxes.dtype)
        strides = torch.stack([priors.strides[first] for first in firsts]).to(boxes.dtype)
        low, high = boxes.split(2, -1)
        sides = (high - low).unsqueeze(2)
        best = shape_iou(sides, anchors).argmax(-1)
        shapes = [shape for shape in priors.shapes for _ in range(copies)]
        height, width = (per_level(sides, best)[best] for sides in zip(*shapes))
        x, y = ((low + high) / 2 / strides[best].unsqueeze(-1)).floor().long().unbind(-1)
        column, row = x.clamp(min=0).minimum(width - 1), y.clamp(min=0).minimum(height - 1)
        return per_level(firsts, best)[best] + row * width + column
