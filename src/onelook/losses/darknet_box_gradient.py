"""YOLOv4's box loss with the gradient of Darknet's code, which is that of no function of the network's output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onelook.losses.pairs import Pairs
from onelook.losses.yolov4 import class_shares, input_sides, mean_over_images, values_of_levels
from onelook.ops.gather import gather_rows
from onelook.ops.iou import IouKind, box_iou
from onelook.ops.precision import at_least_float32

_EPSILON = 1e-6  # in the weight of CIoU's aspect ratio


@dataclass(frozen=True)
class DarknetBoxGradient:
    """YOLOv4's box loss: 1 - IoU summed over pairs, divided by the images, with the gradient that Darknet computes.

    weight: Darknet's iou_normalizer.  kind: the overlap whose derivative it is.  coordinates: how the head encodes
    sides.  max_delta: largest gradient of a value in each level, finest first, before pairs of a prior are summed; ()
    for no limit.  shares: whether a prior's gradient is divided by the classes of its objects, as where an object may
    have several anchors.

    Darknet takes the derivative of the overlap by the box in fractions of the input, and uses it for the raw values:
    it lacks the factors of the sigmoid, of the grid and of half a side, CIoU's lacks 1 / (w^2 + h^2), and that of the
    enclosing box has a wrong sign in x and y. `DarknetBox` has the true gradient. The logged value is 1 - IoU, 1 - GIoU
    for "giou".
    """

    weight: float = 0.07
    kind: IouKind = "ciou"
    coordinates: Literal["exponential", "sigmoid"] = "exponential"
    max_delta: tuple[float, ...] = ()
    shares: bool = True
    name: str = "box"

    def __post_init__(self) -> None:
        if not self.weight > 0 or any(not limit > 0 for limit in self.max_delta):
            raise ValueError("weight and every max_delta are above 0")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors", "box offsets", f"{self.coordinates} sides")

    def __call__(self, pairs: Pairs) -> Tensor:
        sides = input_sides(pairs.predictions.priors).to(pairs.boxes.dtype).repeat(2)
        raw = at_least_float32(gather_rows(pairs.predictions.regression, pairs.matches.priors))
        raw = raw[..., ::2] if raw.shape[-1] == 8 else raw  # means and uncertainties alternate (Gaussian YOLO)
        boxes, targets = pairs.boxes.detach() / sides, pairs.target_boxes / sides
        delta = _box_derivative(boxes, targets, self.kind)
        if self.coordinates == "sigmoid":
            inputs = raw.sigmoid()
        else:
            inputs, factors = raw, raw.detach()[..., 2:].exp()
            delta = torch.cat((delta[..., :2], delta[..., 2:] * factors), -1)
        delta = self._limited(delta, pairs)
        if self.shares:
            delta = delta * class_shares(pairs).unsqueeze(-1)
        surrogate = mean_over_images(pairs, -(delta * inputs).sum(-1))
        logged = 1 - box_iou(boxes, targets, "giou" if self.kind == "giou" else "iou")
        return mean_over_images(pairs, logged) + surrogate - surrogate.detach()

    def _limited(self, delta: Tensor, pairs: Pairs) -> Tensor:
        """The gradients, 0 where they are not finite, limited after they were weighted."""
        delta = torch.where(delta.isfinite(), delta, 0.0)
        if not self.max_delta:
            return delta
        weighted = values_of_levels(self.max_delta, pairs.predictions.priors, delta.dtype, "max_delta")
        limit = weighted[pairs.matches.priors].unsqueeze(-1) / self.weight
        return delta.maximum(-limit).minimum(limit)


def _box_derivative(boxes: Tensor, targets: Tensor, kind: IouKind) -> Tensor:
    """Darknet's derivative of an overlap by (x, y, w, h) of the boxes, (..., 4); both are xyxy."""
    by_overlap = _overlap_derivative(boxes, targets, is_giou=kind == "giou")
    if kind in ("iou", "giou"):
        return by_overlap
    by_penalty = _penalty_derivative(boxes, targets, has_aspect=kind == "ciou")
    return torch.where(_apart(boxes, targets).unsqueeze(-1), by_penalty, by_overlap + by_penalty)


def _overlap_derivative(boxes: Tensor, targets: Tensor, *, is_giou: bool) -> Tensor:
    """That of IoU or GIoU: by each edge, then by centre and side, of which a side moves both its edges by a whole."""
    left, top, right, bottom = boxes.unbind(-1)
    target_left, target_top, target_right, target_bottom = targets.unbind(-1)
    w, h = right - left, bottom - top
    iw, ih = _intersection_sides(boxes, targets)
    intersection = (iw * ih).unsqueeze(-1)
    union = (w * h + _area(targets)).unsqueeze(-1) - intersection
    by_edge = torch.stack(
        (
            -ih * (left > target_left),
            -iw * (top > target_top),
            ih * (right < target_right),
            iw * (bottom < target_bottom),
        ),
        -1,
    )
    union_by_edge = torch.stack((-h, -w, h, w), -1) - by_edge
    found = torch.where(union > 0, (union * by_edge - intersection * union_by_edge) / union.square(), 0.0)
    if is_giou:
        cw, ch = _enclosing_sides(boxes, targets)
        area = (cw * ch).unsqueeze(-1)
        area_by_edge = torch.stack(
            (
                -ch * (left < target_left),
                -cw * (top < target_top),
                ch * (right > target_right),
                cw * (bottom > target_bottom),
            ),
            -1,
        )
        enclosing = (area * union_by_edge - union * area_by_edge) / area.square()
        found = torch.where(_apart(boxes, targets).unsqueeze(-1), enclosing, found + enclosing)
    by_left, by_top, by_right, by_bottom = found.unbind(-1)
    return torch.stack((by_left + by_right, by_top + by_bottom, by_right - by_left, by_bottom - by_top), -1)


def _penalty_derivative(boxes: Tensor, targets: Tensor, *, has_aspect: bool) -> Tensor:
    """That of DIoU's distance of centres and, for CIoU, of the aspect ratio."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    gap = (targets[..., :2] + targets[..., 2:]) / 2 - centres
    distance = gap.square().sum(-1, keepdim=True)
    enclosing = torch.stack(_enclosing_sides(boxes, targets), -1)
    diagonal = enclosing.square().sum(-1, keepdim=True)
    above = (boxes[..., 2:] > targets[..., 2:]).to(boxes.dtype)
    below = (boxes[..., :2] < targets[..., :2]).to(boxes.dtype)
    # The second term has the opposite sign of the true derivative.
    by_centre = (2 * gap * diagonal - 2 * enclosing * (above - below) * distance) / diagonal.square()
    by_side = enclosing * (above + below) * distance / diagonal.square()
    if has_aspect:
        w, h = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
        target_w, target_h = (targets[..., 2:] - targets[..., :2]).unbind(-1)
        iw, ih = _intersection_sides(boxes, targets)
        iou = iw * ih / (w * h + target_w * target_h - iw * ih)
        difference = (target_w / target_h).atan() - (w / h).atan()
        aspect = 4 / math.pi**2 * difference.square()
        turn = aspect / (1 - iou + aspect + _EPSILON) * (8 / math.pi**2) * difference
        by_side = by_side + torch.stack((turn * h, -turn * w), -1)
    return torch.cat((by_centre, by_side), -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _intersection_sides(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the intersection; below 0 for boxes that are apart."""
    w, h = (boxes[..., 2:].minimum(targets[..., 2:]) - boxes[..., :2].maximum(targets[..., :2])).unbind(-1)
    return w, h


def _enclosing_sides(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    w, h = (boxes[..., 2:].maximum(targets[..., 2:]) - boxes[..., :2].minimum(targets[..., :2])).unbind(-1)
    return w, h


def _apart(boxes: Tensor, targets: Tensor) -> Tensor:
    """Whether two boxes do not intersect."""
    w, h = _intersection_sides(boxes, targets)
    return (w <= 0) | (h <= 0)
