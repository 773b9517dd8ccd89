"""SimOTA as a textbook writes it: image by image, a full cost tensor of objects x candidates x classes.

The judge of `onelook.assign.simota` for equality and for speed; written from the published rule, without a trick.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onelook.types import Predictions, Targets


def simota(
    predictions: Predictions,
    targets: Targets,
    *,
    radius: float = 2.5,
    inside_box: bool = True,
    candidates: int = 10,
    iou_weight: float = 3.0,
    penalty: float = 1e5,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For every image: rows of its positive priors (ascending), their objects, and the IoU of each pair."""
    rule = (radius, inside_box, candidates, iou_weight, penalty)
    return [_one_image(predictions, targets, image, rule) for image in range(len(targets.valid))]


def _one_image(
    predictions: Predictions, targets: Targets, image: int, rule: tuple[float, bool, int, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    radius, inside_box, limit, iou_weight, penalty = rule
    boxes, classes = predictions.boxes[image].detach(), predictions.classes[image].detach()
    assert predictions.objectness is not None  # of the paper's head, which has one
    objectness = predictions.objectness[image].detach()
    points, strides = predictions.priors.points, predictions.priors.strides
    valid = targets.valid[image]
    gt_boxes, gt_labels = targets.boxes[image][valid], targets.labels[image][valid]
    num_gt, num_classes = len(gt_boxes), classes.shape[1]
    if num_gt == 0:
        none = torch.zeros(0, dtype=torch.int64)
        return none, none, boxes.new_zeros(0)

    # Geometry, (G, N): inside the square around the centre, inside the box.
    centres = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    reach = (radius * strides)[None, :, None]
    to_low = points[None] - (centres[:, None] - reach)
    to_high = (centres[:, None] + reach) - points[None]
    in_centre = torch.cat([to_low, to_high], 2).min(2).values > 0
    if inside_box:
        to_edges = torch.cat([points[None] - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - points[None]], 2)
        in_box = to_edges.min(2).values > 0
        either, both = in_box | in_centre, in_box & in_centre
    else:
        either = both = in_centre
    rows = either.any(0).nonzero().squeeze(1)
    both = both[:, rows]

    # Costs, (G, P).
    low = torch.maximum(gt_boxes[:, None, :2], boxes[rows][None, :, :2])
    high = torch.minimum(gt_boxes[:, None, 2:], boxes[rows][None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(2)
    area = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(1)[:, None]
    area_predicted = (boxes[rows][:, 2:] - boxes[rows][:, :2]).prod(1)[None]
    iou = intersection / (area + area_predicted - intersection)
    probability = (classes[rows].sigmoid() * objectness[rows].sigmoid()[:, None]).sqrt()
    one_hot = F.one_hot(gt_labels, num_classes).to(boxes.dtype)
    class_cost = F.binary_cross_entropy(
        probability[None].expand(num_gt, -1, -1), one_hot[:, None].expand(-1, len(rows), -1), reduction="none"
    ).sum(2)
    cost = class_cost + iou_weight * -torch.log(iou + 1e-8) + penalty * ~both

    # Dynamic k, the cheapest points of every object, conflicts.
    k = iou.topk(min(limit, len(rows)), dim=1).values.sum(1).int().clamp(min=1)
    selected = torch.zeros_like(cost, dtype=torch.bool)
    for gt in range(num_gt):
        selected[gt, cost[gt].topk(min(int(k[gt]), len(rows)), largest=False).indices] = True
    conflicted = selected.sum(0) > 1
    if conflicted.any():
        best = cost[:, conflicted].argmin(0)
        selected[:, conflicted] = False
        selected[best, conflicted] = True
    positive = selected.any(0)
    matched = selected[:, positive].int().argmax(0)
    return rows[positive], matched, iou[matched, positive.nonzero().squeeze(1)]
