"""SimOTA, the label assignment of YOLOX."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.assign.cost import (
    class_cost,
    dynamic_k,
    inside_boxes,
    near_centres,
    no_pairs,
    resolve_conflicts,
    select_rows,
)
from onelook.ops.gather import pack
from onelook.ops.iou import pairwise_iou
from onelook.ops.precision import at_least_float32
from onelook.types import Matches, Predictions, Priors, Targets


@dataclass(frozen=True)
class SimOta:
    """SimOTA: dynamic-k assignment by cost (YOLOX sec. 2.1, eq. 1), for a whole batch at once.

    radius: half side of the centre region, in strides.
    inside_box: whether points inside the object's box are candidates too, and only points both inside the box and in
        the centre region have no penalty; otherwise only the centre region counts.
    candidates: how many of an object's best IoUs are summed into its k.
    iou_weight: of the IoU cost -log(IoU) against the class cost (lambda of eq. 1, not given in the paper).
    penalty: cost of a candidate outside the object's own region.

    The class cost includes objectness where the head has it.

    Every object claims its 1 to `candidates` cheapest points; a point with several claims goes to the object for which
    it is cheapest among all objects, even one without a claim, so an object may have no point. An image without objects
    has no pairs. Points outside every region are never assigned. The defaults are the published code at the dates of
    the paper and of the released weights; `LATER` is the rule since January 2023.

    P is M * `candidates`, and the quality is the IoU of the pair.
    """

    radius: float = 2.5
    inside_box: bool = True
    candidates: int = 10
    iou_weight: float = 3.0
    penalty: float = 1e5

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.candidates < 1:
            raise ValueError(f"radius is above 0 and candidates at least 1, not {self.radius} and {self.candidates}")
        if self.iou_weight < 0 or self.penalty < 0:
            raise ValueError(f"iou_weight and penalty are not negative: {self.iou_weight} and {self.penalty}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Assigns targets (B, M) to predictions (B, N): Matches (B, M * candidates), computed in float32 at least."""
        boxes = at_least_float32(targets.boxes)
        num_objects, num_priors = boxes.shape[1], predictions.boxes.shape[1]
        if num_objects == 0 or num_priors == 0:
            return no_pairs(predictions)

        near, own = self.regions(predictions.priors, boxes, targets.valid)
        candidate = near.any(1)
        index, real = None, candidate
        capacity = self._capacity(predictions.priors, num_objects)
        if boxes.device.type == "cpu":  # reading a count needs no synchronisation there
            capacity = min(capacity, max(1, int(candidate.sum(1).max())))
        if capacity < num_priors:
            index, real = pack(candidate, capacity)
            own = own.gather(2, index.unsqueeze(1).expand(-1, num_objects, -1))

        pair = real.unsqueeze(1) & targets.valid.unsqueeze(2)
        iou = pairwise_iou(boxes, at_least_float32(select_rows(predictions.boxes, index))).masked_fill_(~pair, 0.0)
        cost = class_cost(predictions, targets.labels, index)
        # In place: at 640 pixels these are millions of numbers, and allocating memory costs more than the arithmetic.
        cost.sub_((iou + 1e-8).log_(), alpha=self.iou_weight)
        cost.add_(own.logical_not(), alpha=self.penalty)
        cost.masked_fill_(pair.logical_not_(), torch.inf)
        return resolve_conflicts(cost, iou, *dynamic_k(cost, iou, self.candidates), index)

    def regions(self, priors: Priors, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Returns two masks (B, M, N) for objects (B, M): candidate points, and points without penalty.

        Points on the border of the centre region or of the box are outside.
        """
        near = near_centres(priors, boxes, valid, self.radius)
        if not self.inside_box:
            return near, near
        inside = inside_boxes(priors, boxes, valid)
        return near | inside, near & inside

    def _capacity(self, priors: Priors, num_objects: int) -> int:
        """Returns an upper bound on the candidates of an image, without device access.

        The centre region contains few points of each level.
        """
        num_priors = len(priors.points)
        if self.inside_box or not priors.shapes:
            return num_priors
        side = math.ceil(2 * self.radius)  # an open interval of 2r strides holds at most ceil(2r) points of a grid
        anchors = num_priors // sum(height * width for height, width in priors.shapes)
        return min(num_priors, num_objects * side * side * anchors * len(priors.shapes))


PAPER = SimOta()
LATER = SimOta(radius=1.5, inside_box=False, penalty=1e6)
