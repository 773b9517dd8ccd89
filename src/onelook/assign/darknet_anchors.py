"""YOLOv4's assignment: the best anchor, and all anchors above an IoU threshold ("multiple anchors")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cells import per_level
from onelook.errors import ConfigError
from onelook.ops.iou import pairwise_iou, shape_iou
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Priors, Targets

_BLOCK = 16  # objects whose overlaps with all priors are in memory at once


@dataclass(frozen=True)
class DarknetAnchors:
    """Assigns an object to anchors by shape, in the cell of its centre (YOLOv3 sec. 2.1; YOLOv4 sec. 4.3).

    iou_threshold: besides the best anchor of all levels, an object is assigned to every anchor whose IoU with it, on a
        common centre, is above this; 1 leaves the best anchor only.
    ignore: a prior whose box overlaps an object by more than this IoU, and that detects some class, is no negative.
    seen: class probability above which a prior detects a class, whichever it is.
    soft: for which levels, in the order of rows, the objectness target of such priors is the overlap, and is not 1 at
        positives (YOLOv4-CSP: objectness is trained by overlap only, once a box is nearly right); () for none.
    unused: (width, height) of anchors without a level; objects that fit them best have no best anchor, as published
        (10 x 14 of yolov4-tiny).

    A prior may have several objects. Objects whose centre lies outside the grid use the nearest cell. P is M times the
    anchors of all levels, object by object; the quality is 1.
    """

    iou_threshold: float = 0.213
    ignore: float = 0.7
    seen: float = 0.25
    soft: tuple[bool, ...] = ()
    unused: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("iou_threshold", "ignore", "seen"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is from 0 to 1, not {getattr(self, name)}")
        if any(side <= 0 for anchor in self.unused for side in anchor):
            raise ValueError(f"the sides of an anchor are pixels above 0, not {self.unused}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("objectness", "anchors")

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, M * anchors), `ignored`, if soft `objectness`."""
        boxes = at_least_float32(targets.boxes)
        grid = _AnchorGrid.of(predictions.priors, boxes)
        chosen = self.chosen(boxes, grid) & targets.valid.unsqueeze(2)
        rows = torch.where(chosen, grid.rows(boxes), 0).flatten(1)
        objects = torch.arange(boxes.shape[1], device=boxes.device).repeat_interleave(len(grid.firsts))
        valid = chosen.flatten(1)
        objects = torch.where(valid, objects, 0)

        near = self._overlap_to_ignore(predictions, boxes, targets.valid)
        positive = near.new_zeros(near.shape).scatter_add_(1, rows, valid.to(near.dtype)) > 0
        soft = self._soft_objectness_mask(predictions.priors)
        ignored = (near > 0) & ~positive
        quality = valid.to(boxes.dtype)
        if soft is None:
            return Matches(rows, objects, quality, valid, ignored)
        objectness = torch.where(soft, near, positive.to(near.dtype))
        return Matches(rows, objects, quality, valid, ignored & ~soft, objectness)

    def chosen(self, boxes: Tensor, grid: _AnchorGrid) -> Tensor:
        """Returns a mask (B, M, A) of the anchors of all levels that an object is assigned to, by shape."""
        sides = (boxes[..., 2:] - boxes[..., :2]).unsqueeze(2)
        iou = shape_iou(sides, grid.sizes)
        # Anchors in the order of official files: unused ones, then from the finest level on; of equals the first wins.
        ordered = iou[..., grid.order]
        best = torch.zeros_like(iou, dtype=torch.bool)
        best[..., grid.order] = _best_anchor_mask(ordered, grid.sizes[grid.order])
        if self.unused:
            anchors = torch.stack([per_level(anchor, boxes) for anchor in self.unused])
            outside = shape_iou(sides, anchors).amax(-1, keepdim=True)
            best &= iou > outside
        return best | (iou > self.iou_threshold)

    def _overlap_to_ignore(self, predictions: Predictions, boxes: Tensor, valid: Tensor) -> Tensor:
        """Returns (B, N) each box's greatest IoU with an object if above `ignore` and a class is detected, else 0."""
        predicted = at_least_float32(predictions.boxes)
        best = torch.zeros_like(predicted[..., 0])
        for start in range(0, boxes.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            iou = pairwise_iou(boxes[:, part], predicted).masked_fill_(~valid[:, part].unsqueeze(2), 0.0)
            # A box of infinite sides overlaps nothing.
            best = torch.maximum(best, iou.nan_to_num_(0.0).amax(1))
        detects = at_least_float32(predictions.classes).amax(-1).sigmoid() > self.seen
        return torch.where((best > self.ignore) & detects, best, 0.0)

    def _soft_objectness_mask(self, priors: Priors) -> Tensor | None:
        """Returns a mask (N,) of the priors on levels with an IoU as objectness target; None without such a level."""
        if not any(self.soft):
            return None
        if len(self.soft) != len(priors.shapes):
            raise ConfigError(
                f"'soft' has {len(self.soft)} values, and the head has {len(priors.shapes)} levels.",
                "Give one true or false for each level, or () for none.",
            )
        levels = [priors.levels == level for level, soft in enumerate(self.soft) if soft]
        return torch.stack(levels).any(0)


@dataclass(frozen=True)
class _AnchorGrid:
    """The anchors of all levels in the order of rows.

    firsts: row of an anchor's first cell.  order: the anchors from the finest level on.
    """

    firsts: Tensor
    sizes: Tensor
    strides: Tensor
    heights: Tensor
    widths: Tensor
    order: Tensor

    @staticmethod
    def of(priors: Priors, like: Tensor) -> _AnchorGrid:
        if priors.sizes is None:
            raise TypeError("DarknetAnchors needs a head with anchors")
        starts = level_starts(priors)[:-1]
        copies = len(priors.points) // sum(height * width for height, width in priors.shapes)
        rows = [(start + a * h * w, h, w) for start, (h, w) in zip(starts, priors.shapes) for a in range(copies)]
        firsts, heights, widths = (per_level(numbers, priors.levels) for numbers in zip(*rows))
        strides = priors.strides[firsts].to(like.dtype)
        order = strides.argsort(stable=True)
        return _AnchorGrid(firsts, priors.sizes[firsts].to(like.dtype), strides, heights, widths, order)

    def rows(self, boxes: Tensor) -> Tensor:
        """Returns the row (B, M, A) of each anchor in the cell that contains the centre of each box (B, M, 4)."""
        centre = (boxes[..., :2] + boxes[..., 2:]).unsqueeze(2) / 2
        x, y = (centre / self.strides.unsqueeze(1)).floor().long().unbind(-1)
        x, y = x.clamp(min=0).minimum(self.widths - 1), y.clamp(min=0).minimum(self.heights - 1)
        return self.firsts + y * self.widths + x


def _best_anchor_mask(iou: Tensor, anchors: Tensor) -> Tensor:
    """Returns a mask (B, M, A) of the first anchor of the greatest IoU, and of equal anchors on other levels."""
    first = iou.argmax(-1, keepdim=True)
    twins = (anchors.unsqueeze(0) == anchors.unsqueeze(1)).all(-1)
    return twins[first.squeeze(-1)]
