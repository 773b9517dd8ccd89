"""The label assignment of YOLOv7: SimOTA's dynamic k and cost among anchors near the objects.

Which head guides the auxiliary one (lead guided, coarse-to-fine; fig. 5) is a setting of `losses.lead_guided`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.anchor_cells import AnchorCells
from onelook.assign.cost import class_cost, dynamic_k, no_pairs
from onelook.ops.gather import gather_rows, pack
from onelook.ops.iou import pairwise_iou
from onelook.ops.precision import at_least_float32
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class AnchorOta:
    """Dynamic-k assignment by SimOTA's cost among the anchors chosen by `AnchorCells` (YOLOv7 sec. 4.2).

    cells: selects the candidate priors.  candidates: how many of an object's best IoUs are summed into its k: 10 for
    networks of three levels, 20 for four.  iou_weight: of -log(IoU) against the class cost.  soft: whether the quality
    is the pair's IoU; otherwise, as published, it is 1.

    The candidates of all objects of an image are pooled: an object without fitting anchor still takes the cheapest of
    them, and there is no penalty for distance. A candidate that several objects claim goes to the object for which it
    is cheapest. A prior can be a candidate several times and be assigned as often (as published), even to different
    objects; pairs are in the order of `AnchorCells`, P is M * candidates. Without candidates an image has no pairs.
    Official code measures boxes in image heights, which is wrong for inputs that are not square; here they are pixels.
    """

    cells: AnchorCells = AnchorCells()
    candidates: int = 10
    iou_weight: float = 3.0
    soft: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors", "objectness")

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, P), computed in float32 at least."""
        boxes = at_least_float32(targets.boxes)
        num_objects = boxes.shape[1]
        if num_objects == 0:
            return no_pairs(predictions)
        rows, fits = self.cells.candidates(predictions.priors, boxes, targets.valid)
        pair = fits.unsqueeze(1) & targets.valid.unsqueeze(2)
        iou = pairwise_iou(boxes, at_least_float32(gather_rows(predictions.boxes, rows))).masked_fill_(~pair, 0.0)
        cost = class_cost(predictions, targets.labels, rows)
        cost.sub_((iou + 1e-8).log_(), alpha=self.iou_weight)
        cost.masked_fill_(pair.logical_not_(), torch.inf)
        taken, objects = self._resolve_conflicts(cost, *dynamic_k(cost, iou, self.candidates))
        column, valid = pack(taken, min(rows.shape[1], num_objects * self.candidates))
        objects = objects.gather(1, column).where(valid, 0)
        quality = valid.to(boxes.dtype)
        if self.soft:
            overlap = iou.gather(2, column.unsqueeze(1).expand(-1, num_objects, -1))
            quality = quality * overlap.gather(1, objects.unsqueeze(1)).squeeze(1)
        return Matches(rows.gather(1, column).where(valid, 0), objects, quality, valid)

    def _resolve_conflicts(self, cost: Tensor, columns: Tensor, claims: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B, P) whether a candidate is assigned, and (B, P) its object: of several claims, the cheapest.

        columns, claims: (B, M, K) as `dynamic_k` returns them.
        """
        column = columns.flatten(1)
        own = torch.arange(columns.shape[1], device=cost.device).repeat_interleave(columns.shape[2]).expand_as(column)
        flags = claims.flatten(1).long()
        zeros = torch.zeros_like(cost[:, 0], dtype=torch.int64)
        num_claims = zeros.scatter_add(1, column, flags)
        objects = zeros.scatter_add(1, column, own * flags)  # read only where there is one claim
        return num_claims > 0, torch.where(num_claims > 1, cost.argmin(1), objects)
