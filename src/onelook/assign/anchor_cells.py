"""Assignment by anchor shape and cell of the centre, from YOLOv5: gives the candidates of YOLOv7's assignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cost import no_pairs
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Priors, Targets

# The cell of the centre, and its left, upper, right and lower neighbours.
_STEPS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))


@dataclass(frozen=True)
class AnchorCells:
    """Assigns an object to all anchors of similar shape, in the cell of its centre and in neighbouring cells.

    ratio: an anchor fits if the ratio of its sides to the object's, or the inverse, is below this number.
    reach: maximum distance of the centre to a neighbouring cell, in cells: 0.5 adds the nearer horizontal and the
        nearer vertical neighbour (three cells), 1 adds all four (five cells; the coarse labels of YOLOv7 sec. 4.2).
        Cells outside the grid are never added.

    Levels and anchors are independent: an object may have priors on several levels, or none; a prior may have several
    objects. Pairs are ordered by level, neighbour, anchor and object; if a centre lies exactly between two cells, a
    pair occurs twice (as published: means then count it twice). P is M * 5 * the anchors of a cell on all levels. The
    quality is 1.
    """

    ratio: float = 4.0
    reach: float = 0.5

    def __post_init__(self) -> None:
        if self.ratio <= 1:
            raise ValueError(f"ratio is above 1, not {self.ratio}")
        if not 0 <= self.reach <= 1:
            raise ValueError(f"reach is from 0 to 1 cells, not {self.reach}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors",)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, P)."""
        if targets.boxes.shape[1] == 0:
            return no_pairs(predictions)
        boxes = at_least_float32(targets.boxes)
        rows, fits = self.candidates(predictions.priors, boxes, targets.valid)
        objects = torch.arange(boxes.shape[1], device=boxes.device).repeat(rows.shape[1] // boxes.shape[1])
        return Matches(rows.where(fits, 0), objects.expand_as(rows).where(fits, 0), fits.to(boxes.dtype), fits)

    def candidates(self, priors: Priors, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Returns prior rows (B, P) for objects (B, M, 4), and a mask of candidates; column p is of object p % M."""
        if priors.sizes is None:
            raise TypeError(f"{type(self).__name__} needs a head with anchors")
        starts = level_starts(priors)
        parts = [
            self._on_level(priors, start, shape, (end - start) // (shape[0] * shape[1]), boxes)
            for start, end, shape in zip(starts, starts[1:], priors.shapes)
        ]
        rows = torch.cat([rows.flatten(1) for rows, _ in parts], 1)
        fits = torch.cat([(fits & valid[:, None, None]).flatten(1) for _, fits in parts], 1)
        return rows, fits

    def _on_level(
        self, priors: Priors, start: int, shape: tuple[int, int], anchors: int, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns rows and the mask of candidates of one level, both (B, 5 neighbours, anchors, M)."""
        assert priors.sizes is not None  # checked by the caller
        height, width = shape
        stride = priors.strides[start].to(boxes.dtype)
        low, high = boxes.split(2, -1)
        sizes = priors.sizes[start : start + anchors * height * width : height * width].to(boxes.dtype)
        ratio = (high - low).unsqueeze(1) / sizes.unsqueeze(1)
        fits = torch.maximum(ratio, 1 / ratio).amax(-1) < self.ratio
        x, y = ((low + high) / 2 / stride).unbind(-1)
        near = torch.stack(
            (
                torch.ones_like(x, dtype=torch.bool),
                *(((side % 1 < self.reach) & (side > 1)) for side in (x, y, width - x, height - y)),
            ),
            1,
        )
        columns = torch.stack([x + self.reach * step for step, _ in _STEPS], 1).long().clamp_(0, width - 1)
        lines = torch.stack([y + self.reach * step for _, step in _STEPS], 1).long().clamp_(0, height - 1)
        cells = (lines * width + columns).unsqueeze(2)
        first = start + torch.arange(anchors, device=boxes.device).unsqueeze(1) * (height * width)
        return first + cells, near.unsqueeze(2) & fits.unsqueeze(1)
