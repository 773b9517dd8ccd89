"""What dynamic-k assigners share: the cost of a class, and how many of its cheapest candidates an object takes.

Everything works in place where it can: at 640 pixels these are millions of numbers, and fresh memory costs more than
the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onelook.ops.gather import gather_rows
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import grids
from onelook.types import Matches, Predictions, Priors

LOG_FLOOR = -100.0  # of binary cross-entropy, as PyTorch clamps it


def select_rows(values: Tensor, index: Tensor | None) -> Tensor:
    """Rows `index` (B, P) of `values` (B, N, ...); all of them for None."""
    return values if index is None else gather_rows(values, index)


def class_cost(predictions: Predictions, labels: Tensor, index: Tensor | None) -> Tensor:
    """(B, M, P): binary cross-entropy of sqrt(class * objectness) against the object's class, over all classes.

    labels: (B, M).  index: (B, P) the candidates, None for all priors. For all objects of an image the sum over classes
    differs only in the object's own class, so it is made once a candidate and corrected: C + M numbers, not C * M.
    Without objectness it is the square root of the class alone.
    """
    probability = _by_candidate(predictions, index).sqrt_()
    own = labels.unsqueeze(1).expand(-1, probability.shape[1], -1)
    cost = probability.gather(2, own).log_().clamp_(min=LOG_FLOOR).neg_()
    absent = probability.neg_().log1p_().clamp_(min=LOG_FLOOR)
    cost.add_(absent.gather(2, own)).sub_(absent.sum(2, keepdim=True))
    return cost.transpose(1, 2).contiguous()


def probabilities(predictions: Predictions, index: Tensor | None) -> Tensor:
    """(B, C, P): class probability, times objectness where there is one, of the candidates `index`; a new tensor.

    Classes before candidates: what an object needs is then one row, and no later pass strides through memory.
    """
    return _by_candidate(predictions, index).transpose(1, 2).contiguous()


def _by_candidate(predictions: Predictions, index: Tensor | None) -> Tensor:
    """(B, P, C): the same with candidates before classes."""
    classes = at_least_float32(select_rows(predictions.classes, index))
    probability = classes.sigmoid() if index is None else classes.sigmoid_()
    if predictions.objectness is not None:
        probability.mul_(at_least_float32(select_rows(predictions.objectness, index)).sigmoid().unsqueeze(2))
    return probability


def near_centres(priors: Priors, boxes: Tensor, valid: Tensor, radius: float) -> Tensor:
    """(B, M, N) which points lie less than `radius` strides beside an object's centre, on both axes: an open square."""
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)

    def near(x: Tensor, y: Tensor, stride: Tensor) -> tuple[Tensor, Tensor]:
        reach = radius * stride
        return (x - (left + right) / 2).abs_() < reach, (y - (top + bottom) / 2).abs_() < reach

    return _on_both_axes(priors, valid, boxes.dtype, near)


def inside_boxes(priors: Priors, boxes: Tensor, valid: Tensor) -> Tensor:
    """(B, M, N) which points lie inside an object's box, not on its border."""
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)
    return _on_both_axes(
        priors, valid, boxes.dtype, lambda x, y, stride: ((x > left) & (x < right), (y > top) & (y < bottom))
    )


def _on_both_axes(
    priors: Priors, valid: Tensor, dtype: torch.dtype, test: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """(B, M, N) which points pass a test of x and one of y.

    test: (x, y, stride) of points -> (B, M, X), (B, M, Y) bool. A column of a grid decides for all of its points, and
    so does a row; where the grids' shapes are not known, every point is looked at by itself.
    """
    wanted = valid.unsqueeze(-1)
    if not priors.shapes:
        points = priors.points.to(dtype)
        along_x, along_y = test(points[:, 0], points[:, 1], priors.strides.to(dtype))
        return (along_x & along_y).logical_and_(wanted)
    parts = []
    for x, y, stride in grids(priors, dtype):
        columns, rows = test(x, y, stride)
        parts.append(((rows & wanted).unsqueeze(3) & columns.unsqueeze(2)).flatten(2))
    return torch.cat(parts, 2)


def overlaps(objects: Tensor, boxes: Tensor) -> Tensor:
    """IoU of boxes (B, M, 4) and (B, P, 4): `pairwise_iou` in three buffers instead of a dozen."""
    left, top, right, bottom = objects.unsqueeze(-1).unbind(-2)
    x1, y1, x2, y2 = (side.unsqueeze(1) for side in boxes.transpose(1, 2).contiguous().unbind(1))
    overlap = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
    overlap *= torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
    return overlap.div_((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - overlap)


def dynamic_k(cost: Tensor, iou: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Each object's cheapest candidates, (B, M, K) columns of `cost` (B, M, P), and which of them it takes.

    It takes as many as its `candidates` best IoUs sum up to, rounded down, but one; never one of infinite cost.
    """
    limit = min(candidates, cost.shape[2])
    k = iou.topk(limit, dim=2, sorted=False).values.sum(2).to(torch.int64).clamp_(1, limit)
    best = cost.topk(limit, dim=2, largest=False)
    takes = torch.arange(limit, device=cost.device) < k.unsqueeze(-1)
    return best.indices, takes & best.values.isfinite()


def resolve_conflicts(cost: Tensor, iou: Tensor, wanted: Tensor, chosen: Tensor, index: Tensor | None) -> Matches:
    """One object a candidate: one wanted once stays, one wanted more often goes to the cheapest object of all.

    cost, iou: (B, M, P).  wanted, chosen: (B, M, K) as `dynamic_k` gives them.  index: the priors that candidates are,
    None where all are. Quality is the IoU of the pair.
    """
    num_objects, limit = wanted.shape[1:]
    column, takes = wanted.flatten(1), chosen.flatten(1)
    slot = torch.arange(num_objects * limit, device=cost.device).expand_as(column)
    own = slot // limit
    wishes = torch.zeros_like(cost[:, 0], dtype=torch.int64).scatter_add_(1, column, takes.long())
    first = torch.full_like(wishes, num_objects * limit)
    first.scatter_reduce_(1, column, torch.where(takes, slot, num_objects * limit), "amin")
    columns = cost.gather(2, column.unsqueeze(1).expand(-1, num_objects, -1))
    objects = torch.where(wishes.gather(1, column) > 1, columns.argmin(1), own)
    valid = takes & (first.gather(1, column) == slot)
    objects = torch.where(valid, objects, 0)
    quality = iou.gather(2, column.unsqueeze(1).expand(-1, num_objects, -1)).gather(1, objects.unsqueeze(1)).squeeze(1)
    priors = column if index is None else index.gather(1, column)
    return Matches(torch.where(valid, priors, 0), objects, torch.where(valid, quality, 0.0), valid)


def no_pairs(predictions: Predictions) -> Matches:
    """The matches of a batch without objects: P is 0."""
    boxes = at_least_float32(predictions.boxes)
    none = torch.zeros(boxes.shape[0], 0, dtype=torch.int64, device=boxes.device)
    return Matches(none, none, boxes.new_zeros(none.shape), none.bool())
