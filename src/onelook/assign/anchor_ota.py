"""Dynamic-k assignment among the anchors near an object: the label assignment of YOLOv7."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.anchor_cells import AnchorCells
from onelook.assign.cost import dynamic_k, class_cost, no_pairs, overlaps
from onelook.ops.gather import gather_rows, pack
from onelook.ops.precision import at_least_float32
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class AnchorOta:
    """The cheapest of an image's fitting anchors, as many as their overlaps say (YOLOv7 sec. 4.2; SimOTA's cost).

    cells: which priors are candidates.  candidates: how many of an object's best IoUs are summed into its k: 10 for
    networks of three levels, 20 for those of four.  iou_weight: of -log(IoU) against the class cost.  soft: whether the
    quality is the pair's IoU; otherwise, as published, it is 1.

    The candidates of all objects of an image are pooled: an object that no anchor fits still takes the cheapest of
    them, and there is no penalty for distance. A candidate that several objects take goes to the object for which it is
    cheapest. A prior can be a candidate several times and be taken as often (as published), even by different objects;
    pairs are in the order of `AnchorCells`, P is M * candidates. Without candidates an image has no pairs.
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
        """Targets (B, M), predictions (B, N) -> Matches (B, P); float32 at least, whatever comes in."""
        boxes = at_least_float32(targets.boxes)
        num_objects = boxes.shape[1]
        if num_objects == 0:
            return no_pairs(predictions)
        rows, fits = self.cells.candidates(predictions.priors, boxes, targets.valid)
        pair = fits.unsqueeze(1) & targets.valid.unsqueeze(2)
        iou = overlaps(boxes, at_least_float32(gather_rows(predictions.boxes, rows))).masked_fill_(~pair, 0.0)
        cost = class_cost(predictions, targets.labels, rows)
        cost.sub_((iou + 1e-8).log_(), alpha=self.iou_weight)
        cost.masked_fill_(pair.logical_not_(), torch.inf)
        taken, objects = self._settle(cost, *dynamic_k(cost, iou, self.candidates))
        column, valid = pack(taken, min(rows.shape[1], num_objects * self.candidates))
        objects = objects.gather(1, column).where(valid, 0)
        quality = valid.to(boxes.dtype)
        if self.soft:
            overlap = iou.gather(2, column.unsqueeze(1).expand(-1, num_objects, -1))
            quality = quality * overlap.gather(1, objects.unsqueeze(1)).squeeze(1)
        return Matches(rows.gather(1, column).where(valid, 0), objects, quality, valid)

    def _settle(self, cost: Tensor, wanted: Tensor, takes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P) whether a candidate is taken, and by which object: by the one that wants it, or the cheapest."""
        column = wanted.flatten(1)
        own = torch.arange(wanted.shape[1], device=cost.device).repeat_interleave(wanted.shape[2]).expand_as(column)
        flags = takes.flatten(1).long()
        none = torch.zeros_like(cost[:, 0], dtype=torch.int64)
        wishes = none.scatter_add(1, column, flags)
        objects = none.scatter_add(1, column, own * flags)  # read only where there is one wish
        return wishes > 0, torch.where(wishes > 1, cost.argmin(1), objects)
