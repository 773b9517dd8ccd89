"""YOLOv4's box loss with the gradient of Darknet's code, which is that of no function of the network's output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onelook.losses.pairs import Pairs
from onelook.losses.yolov4 import class_shares, input_sides, mean_over_images
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
        limits = delta.new_tensor(self.max_delta) / self.weight
        limit = limits[pairs.predictions.priors.levels[pairs.matches.priors]].unsqueeze(-1)
        return delta.maximum(-limit).minimum(limit)


def _box_derivative(boxes: Tensor, targets: Tensor, kind: IouKind) -> Tensor:
    """Darknet's derivative of an overlap by (x, y, w, h) of the boxes, (..., 4); both are xyxy."""
    left, top, right, bottom = boxes.unbind(-1)
    target_left, target_top, target_right, target_bottom = targets.unbind(-1)
    w, h, tw, th = right - left, bottom - top, target_right - target_left, target_bottom - target_top
    iw, ih = (
        right.minimum(target_right) - left.maximum(target_left),
        bottom.minimum(target_bottom) - top.maximum(target_top),
    )  # below 0 for boxes that are apart
    intersection = iw * ih
    union = w * h + tw * th - intersection
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
    u, i = union.unsqueeze(-1), intersection.unsqueeze(-1)
    found = torch.where(u > 0, (u * by_edge - i * union_by_edge) / u.square(), 0.0)
    apart = ((iw <= 0) | (ih <= 0)).unsqueeze(-1)
    cw, ch = (
        right.maximum(target_right) - left.minimum(target_left),
        bottom.maximum(target_bottom) - top.minimum(target_top),
    )  # the enclosing box
    if kind == "giou":
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
        enclosing = (area * union_by_edge - u * area_by_edge) / area.square()
        found = torch.where(apart, enclosing, found + enclosing)
    found_l, found_t, found_r, found_b = found.unbind(-1)
    derivative = torch.stack((found_l + found_r, found_t + found_b, found_r - found_l, found_b - found_t), -1)
    if kind in ("iou", "giou"):
        return derivative
    x, y = (
        _by_distance(left, right, target_left, target_right, cw),
        _by_distance(top, bottom, target_top, target_bottom, ch),
    )
    distance = ((left + right - target_left - target_right) / 2).square() + (
        (top + bottom - target_top - target_bottom) / 2
    ).square()
    diagonal = cw.square() + ch.square()
    centre = [(2 * gap * diagonal - 2 * both * distance) / diagonal.square() for gap, both, _ in (x, y)]
    size = [2 * half * distance / diagonal.square() for *_, half in (x, y)]
    if kind == "ciou":
        difference = (tw / th).atan() - (w / h).atan()
        aspect = 4 / math.pi**2 * difference.square()
        alpha = aspect / (1 - intersection / union + aspect + _EPSILON)
        turn = alpha * (8 / math.pi**2) * difference
        size = [size[0] + turn * h, size[1] - turn * w]
    more = torch.stack((*centre, *size), -1)
    return torch.where(apart, more, derivative + more)


def _by_distance(low: Tensor, high: Tensor, t_low: Tensor, t_high: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one axis: distance of the centres, and how the enclosing side c, times itself, follows centre and side."""
    above, below = (high > t_high).to(c.dtype), (low < t_low).to(c.dtype)
    return (t_low + t_high - low - high) / 2, c * (above - below), c * (above + below) / 2
