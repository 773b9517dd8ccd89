"""Parts of the dynamic-k assigners SimOTA and AlignOTA: class cost, centre regions, dynamic k, conflict resolution.

Operations are in place where possible: at 640 pixels these are millions of numbers, and allocating memory costs more
than the arithmetic.
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
    """Returns the rows `index` (B, P) of `values` (B, N, ...); all rows for None."""
    return values if index is None else gather_rows(values, index)


def class_cost(predictions: Predictions, labels: Tensor, index: Tensor | None) -> Tensor:
    """Returns (B, M, P): binary cross-entropy of sqrt(class * objectness) against the object's class, over all classes.

    labels: (B, M).  index: (B, P) the candidates, None for all priors. The sums over classes of the objects of an image
    differ only in the object's own class. So the sum is computed once for a candidate and corrected: C + M numbers, not
    C * M. For heads without objectness it is the square root of the class alone.
    """
    probability = _by_candidate(predictions, index).sqrt_()
    own = labels.unsqueeze(1).expand(-1, probability.shape[1], -1)
    cost = probability.gather(2, own).log_().clamp_(min=LOG_FLOOR).neg_()
    absent = probability.neg_().log1p_().clamp_(min=LOG_FLOOR)
    cost.add_(absent.gather(2, own)).sub_(absent.sum(2, keepdim=True))
    return cost.transpose(1, 2).contiguous()


def probabilities(predictions: Predictions, index: Tensor | None) -> Tensor:
    """Returns (B, C, P), a new tensor: class probability of the candidates `index`, times objectness if there is one.

    Classes come before candidates, so that the values of an object's class are contiguous in memory.
    """
    return _by_candidate(predictions, index).transpose(1, 2).contiguous()


def _by_candidate(predictions: Predictions, index: Tensor | None) -> Tensor:
    """Returns the same as `probabilities` as (B, P, C)."""
    classes = at_least_float32(select_rows(predictions.classes, index))
    probability = classes.sigmoid() if index is None else classes.sigmoid_()
    if predictions.objectness is not None:
        probability.mul_(at_least_float32(select_rows(predictions.objectness, index)).sigmoid().unsqueeze(2))
    return probability


def near_centres(priors: Priors, boxes: Tensor, valid: Tensor, radius: float) -> Tensor:
    """Returns a mask (B, M, N) of the points less than `radius` strides from an object's centre on both axes."""
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)

    def near(x: Tensor, y: Tensor, stride: Tensor) -> tuple[Tensor, Tensor]:
        reach = radius * stride
        return (x - (left + right) / 2).abs_() < reach, (y - (top + bottom) / 2).abs_() < reach

    return _on_both_axes(priors, valid, boxes.dtype, near)


def inside_boxes(priors: Priors, boxes: Tensor, valid: Tensor) -> Tensor:
    """Returns a mask (B, M, N) of the points inside an object's box, not on its border."""
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)
    return _on_both_axes(
        priors, valid, boxes.dtype, lambda x, y, stride: ((x > left) & (x < right), (y > top) & (y < bottom))
    )


def _on_both_axes(
    priors: Priors, valid: Tensor, dtype: torch.dtype, test: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Returns a mask (B, M, N) of the points that pass a test of x and a test of y.

    test: (x, y, stride) of points -> (B, M, X), (B, M, Y) bool. Each column and each row of a grid is tested once;
    without known grid shapes every point is tested.
    """
    valid = valid.unsqueeze(-1)
    if not priors.shapes:
        points = priors.points.to(dtype)
        along_x, along_y = test(points[:, 0], points[:, 1], priors.strides.to(dtype))
        return (along_x & along_y).logical_and_(valid)
    parts = []
    for x, y, stride in grids(priors, dtype):
        columns, rows = test(x, y, stride)
        parts.append(((rows & valid).unsqueeze(3) & columns.unsqueeze(2)).flatten(2))
    return torch.cat(parts, 2)


def dynamic_k(cost: Tensor, iou: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Returns each object's cheapest candidates, as columns (B, M, K) of `cost` (B, M, P), and a mask of its claims.

    An object claims its k cheapest candidates, k the sum of its `candidates` best IoUs, rounded down, at least 1 (YOLOX
    sec. 2.1, after OTA). Candidates of infinite cost are never claimed.
    """
    limit = min(candidates, cost.shape[2])
    k = iou.topk(limit, dim=2, sorted=False).values.sum(2).to(torch.int64).clamp_(1, limit)
    best = cost.topk(limit, dim=2, largest=False)
    claims = torch.arange(limit, device=cost.device) < k.unsqueeze(-1)
    return best.indices, claims & best.values.isfinite()


def resolve_conflicts(cost: Tensor, iou: Tensor, columns: Tensor, claims: Tensor, index: Tensor | None) -> Matches:
    """Assigns each claimed candidate to one object: of several claims, to the object of lowest cost among all objects.

    cost, iou: (B, M, P).  columns, claims: (B, M, K) as `dynamic_k` returns them.  index: (B, P) the priors of the
    candidates, None if all priors are candidates. Quality is the IoU of the pair.
    """
    num_objects, limit = columns.shape[1:]
    column, claimed = columns.flatten(1), claims.flatten(1)
    slot = torch.arange(num_objects * limit, device=cost.device).expand_as(column)
    own = slot // limit
    num_claims = torch.zeros_like(cost[:, 0], dtype=torch.int64).scatter_add_(1, column, claimed.long())
    first = torch.full_like(num_claims, num_objects * limit)
    first.scatter_reduce_(1, column, torch.where(claimed, slot, num_objects * limit), "amin")
    costs = cost.gather(2, column.unsqueeze(1).expand(-1, num_objects, -1))
    objects = torch.where(num_claims.gather(1, column) > 1, costs.argmin(1), own)
    valid = claimed & (first.gather(1, column) == slot)
    objects = torch.where(valid, objects, 0)
    quality = iou.gather(2, column.unsqueeze(1).expand(-1, num_objects, -1)).gather(1, objects.unsqueeze(1)).squeeze(1)
    priors = column if index is None else index.gather(1, column)
    return Matches(torch.where(valid, priors, 0), objects, torch.where(valid, quality, 0.0), valid)


def no_pairs(predictions: Predictions) -> Matches:
    """Returns the matches of a batch without objects: P is 0."""
    boxes = at_least_float32(predictions.boxes)
    none = torch.zeros(boxes.shape[0], 0, dtype=torch.int64, device=boxes.device)
    return Matches(none, none, boxes.new_zeros(none.shape), none.bool())
