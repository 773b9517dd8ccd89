"""YOLOv4's assignment: the best anchor of all, and every other one of a similar shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cells import per_level
from onelook.assign.cost import overlaps
from onelook.errors import ConfigError
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.types import Matches, Predictions, Priors, Targets

_BLOCK = 16  # objects whose overlaps with all priors are held at once


@dataclass(frozen=True)
class DarknetAnchors:
    """Anchors by shape, at the cell of an object's centre (YOLOv3 sec. 2.1; YOLOv4 sec. 3.4: "multiple anchors").

    iou_threshold: besides the best anchor of all levels, every anchor learns an object whose shape overlaps its own by
        more than this IoU when laid on one centre; 1 leaves the best alone.
    ignore: a prior whose box overlaps an object by more, and that sees something, is no negative.
    seen: class probability from which a prior sees something, whatever its class.
    soft: for which levels, in the order of rows, such priors learn the overlap as their objectness, and objects do not
        set it to 1 (YOLOv4-CSP: objectness is learnt through overlap only, once a box is nearly right); () for none.
    unused: (width, height) of anchors that belong to no level and yet take the objects that fit them best, as published
        (10 x 14 of yolov4-tiny).

    A prior may learn several objects. Objects whose centre lies outside take the nearest cell. P is M times the anchors
    of all levels, object by object; the quality is 1.
    """

    iou_threshold: float = 0.213
    ignore: float = 0.7
    seen: float = 0.25
    soft: tuple[bool, ...] = ()
    unused: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("iou_threshold", "ignore", "seen"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies between 0 and 1, not {getattr(self, name)}")
        if any(side <= 0 for anchor in self.unused for side in anchor):
            raise ValueError(f"the sides of an anchor are pixels above 0, not {self.unused}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("objectness", "anchors")

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Targets (B, M), predictions (B, N) -> Matches (B, M * anchors), `ignored` and, where soft, `objectness`."""
        boxes = at_least_float32(targets.boxes)
        grid = _AnchorGrid.of(predictions.priors, boxes)
        chosen = self.chosen(boxes, grid) & targets.valid.unsqueeze(2)
        rows = torch.where(chosen, grid.rows(boxes), 0).flatten(1)
        objects = torch.arange(boxes.shape[1], device=boxes.device).repeat_interleave(len(grid.firsts))
        valid = chosen.flatten(1)
        objects = torch.where(valid, objects, 0)

        near = self._nearness(predictions, boxes, targets.valid)
        positive = near.new_zeros(near.shape).scatter_add_(1, rows, valid.to(near.dtype)) > 0
        soft = self._soft_rows(predictions.priors)
        ignored = (near > 0) & ~positive
        quality = valid.to(boxes.dtype)
        if soft is None:
            return Matches(rows, objects, quality, valid, ignored)
        wanted = torch.where(soft, near, positive.to(near.dtype))
        return Matches(rows, objects, quality, valid, ignored & ~soft, wanted)

    def chosen(self, boxes: Tensor, grid: _AnchorGrid) -> Tensor:
        """(B, M, A) which anchors of all levels learn an object, by shape."""
        sides = (boxes[..., 2:] - boxes[..., :2]).unsqueeze(2)
        iou = _shape_iou(sides, grid.sizes)
        # Anchors in the order of files: the unused, then those of the finest level first; the first of equals wins.
        ordered = iou[..., grid.order]
        best = torch.zeros_like(iou, dtype=torch.bool)
        best[..., grid.order] = _leading(ordered, grid.sizes[grid.order])
        if self.unused:
            anchors = torch.stack([per_level(anchor, boxes) for anchor in self.unused])
            outside = _shape_iou(sides, anchors).amax(-1, keepdim=True)
            best &= iou > outside
        return best | (iou > self.iou_threshold)

    def _nearness(self, predictions: Predictions, boxes: Tensor, valid: Tensor) -> Tensor:
        """(B, N) greatest IoU of each prior's box with an object where it is above `ignore` and it sees any; else 0."""
        predicted = at_least_float32(predictions.boxes)
        best = torch.zeros_like(predicted[..., 0])
        for start in range(0, boxes.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            iou = overlaps(boxes[:, part], predicted).masked_fill_(~valid[:, part].unsqueeze(2), 0.0)
            # A box of infinite sides overlaps nothing.
            best = torch.maximum(best, iou.nan_to_num_(0.0).amax(1))
        sees = at_least_float32(predictions.classes).amax(-1).sigmoid() > self.seen
        return torch.where((best > self.ignore) & sees, best, 0.0)

    def _soft_rows(self, priors: Priors) -> Tensor | None:
        if not any(self.soft):
            return None
        if len(self.soft) != len(priors.shapes):
            raise ConfigError(
                f"soft speaks of {len(self.soft)} levels, and the head has {len(priors.shapes)}.",
                "Give true or false a level, or () for none.",
            )
        levels = [priors.levels == level for level, soft in enumerate(self.soft) if soft]
        return torch.stack(levels).any(0)


@dataclass(frozen=True)
class _AnchorGrid:
    """The anchors of all levels in the order of rows. firsts: row of an anchor's first cell.  order: finest first."""

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
        """(B, M, A) the row of each anchor at the cell that holds the centre of each box (B, M, 4)."""
        centre = (boxes[..., :2] + boxes[..., 2:]).unsqueeze(2) / 2
        x, y = (centre / self.strides.unsqueeze(1)).floor().long().unbind(-1)
        x, y = x.clamp(min=0).minimum(self.widths - 1), y.clamp(min=0).minimum(self.heights - 1)
        return self.firsts + y * self.widths + x


def _shape_iou(sides: Tensor, anchors: Tensor) -> Tensor:
    """(B, M, 1, 2) sides and (A, 2) anchors, laid on one centre -> (B, M, A)."""
    shared = torch.minimum(sides, anchors).prod(-1)
    return shared / (sides.prod(-1) + anchors.prod(-1) - shared)


def _leading(iou: Tensor, anchors: Tensor) -> Tensor:
    """(B, M, A) bool: the first anchor of the greatest IoU, and the same anchor wherever another level has it too."""
    first = iou.argmax(-1, keepdim=True)
    twins = (anchors.unsqueeze(0) == anchors.unsqueeze(1)).all(-1)
    return twins[first.squeeze(-1)]
