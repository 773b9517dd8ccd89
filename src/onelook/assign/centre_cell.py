"""Assignment by the cell of the centre: "anchor-free" and "multi positives" of YOLOX's roadmap (table 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cells import per_level, smallest_object_wins
from onelook.assign.cost import no_pairs
from onelook.ops.gather import gather_rows
from onelook.ops.iou import box_iou
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Targets


@dataclass(frozen=True)
class CentreCell:
    """Assigns an object to the cell that contains its centre, or to a square of cells around it (YOLOX sec. 2.1).

    cells: side of the square, odd: 1 is "anchor-free" of table 2, 3 its "multi positives".
    reach: an object belongs to the finest level whose stride times this is at least half its longer side; larger
        objects belong to the coarsest level.

    The paper has "a scale range" as in FCOS, without numbers. Chosen are those of FCOS: 64 pixels at stride 8 and 128
    at stride 16 (sec. 3.2), both 8 strides, and its measure, the largest distance to a side, here from the centre so
    that all cells of an object agree. Not specified either: a cell for two objects goes to the smaller one (FCOS),
    cells outside a small object's box count, cells outside the image do not. So an object may have no cell.

    P is M * cells^2, and the quality is the IoU of the pair, as in SimOTA, so that only the matches differ.
    """

    cells: int = 1
    reach: float = 8.0

    def __post_init__(self) -> None:
        if self.cells < 1 or self.cells % 2 == 0:
            raise ValueError(f"cells is odd and positive, not {self.cells}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchor-free",)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, M * cells^2)."""
        boxes = at_least_float32(targets.boxes)
        priors = predictions.priors
        if boxes.shape[1] == 0 or not len(priors.points):
            return no_pairs(predictions)
        rows, inside = self._rows(predictions, boxes)
        valid = smallest_object_wins(rows, boxes, inside & targets.valid.unsqueeze(2), len(priors.points)).flatten(1)
        rows = torch.where(valid, rows.flatten(1), 0)
        objects = torch.arange(boxes.shape[1], device=boxes.device).repeat_interleave(self.cells**2)
        objects = torch.where(valid, objects.expand_as(rows), 0)
        iou = box_iou(at_least_float32(gather_rows(predictions.boxes, rows)), gather_rows(boxes, objects))
        return Matches(rows, objects, torch.where(valid, iou, 0.0), valid)

    def _rows(self, predictions: Predictions, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rows (B, M, cells^2) of the cells of objects (B, M, 4), and a mask of those on the grid."""
        priors = predictions.priors
        starts = level_starts(priors)[:-1]
        strides = torch.stack([priors.strides[start] for start in starts]).to(boxes.dtype)
        low, high = boxes.split(2, -1)
        half = (high - low).amax(-1) / 2
        level = (half.unsqueeze(-1) > self.reach * strides[:-1]).sum(-1)
        first = per_level(starts, level)[level].unsqueeze(-1)
        height, width = (per_level(sides, level)[level].unsqueeze(-1) for sides in zip(*priors.shapes))
        x, y = ((low + high) / 2 / strides[level].unsqueeze(-1)).floor().long().split(1, -1)
        reach = self.cells // 2
        steps = torch.arange(-reach, reach + 1, device=boxes.device)
        # A centre on the image's own edge belongs to the last cell.
        column = x.clamp(min=0).minimum(width - 1) + steps.repeat(self.cells)
        row = y.clamp(min=0).minimum(height - 1) + steps.repeat_interleave(self.cells)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return torch.where(inside, first + row * width + column, 0), inside
