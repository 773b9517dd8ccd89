"""AlignOTA, the label assignment of DAMO-YOLO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cost import (
    LOG_FLOOR,
    dynamic_k,
    inside_boxes,
    near_centres,
    no_pairs,
    probabilities,
    resolve_conflicts,
)
from onelook.ops.iou import pairwise_iou
from onelook.ops.precision import at_least_float32
from onelook.types import Matches, Predictions, Priors, Targets


@dataclass(frozen=True)
class AlignOta:
    """AlignOTA: dynamic-k assignment whose class cost uses the IoU as soft target (DAMO-YOLO sec. 2.3, eq. 2).

    radius: half side of the centre region, in strides.
    candidates: how many of an object's best IoUs are summed into its k.
    class_weight, iou_weight: of the class cost and of -log(IoU).
    focus: exponent of |target - score|, which multiplies the cross-entropy of a class; 0 disables it.
    soft: whether the target of the object's class is the IoU; otherwise it is 1.
    all_classes: whether the cost includes the other classes, whose target is 0.
    penalty: cost of a candidate that is not both inside the box and in the centre region.

    Candidates are the points inside the box or the centre region of any object of the image. The rest is SimOTA: an
    object claims its 1 to `candidates` cheapest points, and a point with several claims goes to the object for which it
    is cheapest among all objects. The defaults are those of the published code, `PAPER` is eq. 2. In float32, adding
    the penalty rounds off all differences below 8, as published: if an object has too few points without penalty, the
    choice among the penalised ones is arbitrary.

    P is M * `candidates`, and the quality is the IoU of the pair. Scores are those of `Predictions.scores`.
    """

    radius: float = 2.5
    candidates: int = 10
    class_weight: float = 1.0
    iou_weight: float = 3.0
    focus: float = 2.0
    soft: bool = True
    all_classes: bool = True
    penalty: float = 1e8

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.radius <= 0 or self.focus < 0 or self.penalty < 0:
            raise ValueError("candidates is at least 1, radius above 0, focus and penalty not negative")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, M * candidates), computed in float32 at least."""
        boxes = at_least_float32(targets.boxes)
        if boxes.shape[1] == 0 or predictions.boxes.shape[1] == 0:
            return no_pairs(predictions)
        near, own = self.regions(predictions.priors, boxes, targets.valid)
        pair = near.any(1).unsqueeze(1) & targets.valid.unsqueeze(2)
        iou = pairwise_iou(boxes, at_least_float32(predictions.boxes)).masked_fill_(~pair, 0.0)
        cost = self._class_cost(predictions, targets.labels, iou).mul_(self.class_weight)
        cost.sub_((iou + 1e-7).log_(), alpha=self.iou_weight)
        cost.add_(own.logical_not_(), alpha=self.penalty)
        cost.masked_fill_(pair.logical_not_(), torch.inf)
        return resolve_conflicts(cost, iou, *dynamic_k(cost, iou, self.candidates), None)

    def regions(self, priors: Priors, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Returns two masks (B, M, N) for objects (B, M): candidate points, and points without penalty."""
        near = near_centres(priors, boxes, valid, self.radius)
        inside = inside_boxes(priors, boxes, valid)
        return near | inside, near & inside

    def _class_cost(self, predictions: Predictions, labels: Tensor, iou: Tensor) -> Tensor:
        """Returns the class cost (B, M, N).

        The sum over the other classes is computed once for all objects of an image and then corrected by each object's
        own class: C + M numbers for a point instead of C * M.
        """
        probability = probabilities(predictions, None)
        image = torch.arange(len(labels), device=labels.device).unsqueeze(1)
        score = probability[image, labels]
        target = iou if self.soft else torch.ones_like(iou)
        present = target * score.log().clamp_(min=LOG_FLOOR)
        present += (1 - target) * (-score).log1p_().clamp_(min=LOG_FLOOR)
        cost = present.neg_()
        if self.focus:
            cost.mul_((target - score).abs_() ** self.focus)
        if self.all_classes:
            absent = (-probability).log1p_().clamp_(min=LOG_FLOOR).neg_()
            if self.focus:
                absent.mul_(probability**self.focus)
            cost.add_(absent.sum(1).unsqueeze(1)).sub_(absent[image, labels])
        return cost


PAPER = AlignOta(iou_weight=1.0, all_classes=False)
