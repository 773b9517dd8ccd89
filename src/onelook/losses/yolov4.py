"""The loss terms of YOLOv4 (Darknet): sums over a batch, divided by the number of images.

Darknet has no loss function: each layer computes gradients directly. Those of objectness and classes are exactly the
gradients of these terms. Those of boxes are not the gradient of any function of the network's output: Darknet takes the
derivative of the overlap by the box in fractions of the input and uses it for the raw values, without the factors of
the sigmoid, the grid and (for sides: of half a side) the decoding; the derivative of CIoU lacks 1 / (w^2 + h^2), and
that of the enclosing box has a wrong sign. These terms have the true gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from onelook.errors import ConfigError
from onelook.losses.pairs import Pairs
from onelook.ops.gather import gather_rows
from onelook.ops.iou import IouKind, box_iou
from onelook.ops.precision import at_least_float32
from onelook.types import Priors


@dataclass(frozen=True)
class DarknetBox:
    """YOLOv4's box loss: 1 - CIoU of predicted box and object, summed over pairs, divided by the images of the batch.

    weight: Darknet's iou_normalizer, 0.07 found by genetic search (YOLOv4 sec. 4.1), 0.05 for YOLOv4-CSP.
    kind: of overlap, for boxes in fractions of the input's sides (relevant to "diou" and "ciou" if these differ).
    per_cell: whether a pair's loss is multiplied by the number of cells along a side of its level. Darknet's gradient
        is that of a shift by the whole input, the true one that of a shift by a cell; without this factor the published
        weight would hardly train boxes.

    Objects of several classes that share a prior share the weight of one pair.
    """

    weight: float = 0.07
    kind: IouKind = "ciou"
    per_cell: bool = True
    name: str = "box"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors",)

    def __call__(self, pairs: Pairs) -> Tensor:
        priors = pairs.predictions.priors
        sides = input_sides(priors).to(pairs.boxes.dtype).repeat(2)
        value = 1 - box_iou(pairs.boxes / sides, pairs.target_boxes / sides, self.kind)
        if self.per_cell:
            strides = priors.strides.to(value.dtype)[pairs.matches.priors]
            value = value * sides[:2].prod().sqrt() / strides
        return mean_over_images(pairs, value * class_shares(pairs))


@dataclass(frozen=True)
class DarknetSquares:
    """YOLOv3's box loss: half the squared errors of the raw box values, weighted more for smaller objects (sec. 2.1).

    Centres are compared in cells, sides in the encoding of the head: logarithms relative to the anchor ("exponential"),
    or square roots relative to a quarter anchor ("sigmoid").  weight: Darknet's iou_normalizer, 0.75 by default. A
    pair's weight is 2 - the part of the input that the object covers. The gradient is that of Darknet, times the
    derivative of the sigmoid, which Darknet omits.
    """

    weight: float = 0.75
    coordinates: Literal["exponential", "sigmoid"] = "exponential"
    name: str = "box"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors", "box offsets", f"{self.coordinates} sides")

    def __call__(self, pairs: Pairs) -> Tensor:
        errors = box_errors(pairs, self.coordinates).square().sum(-1)
        return mean_over_images(pairs, 0.5 * errors * size_weight(pairs) * class_shares(pairs))


@dataclass(frozen=True)
class GaussianBox:
    """Negative log-likelihood of the raw box values under normal distributions (Gaussian YOLO, Choi 2019, eq. 5).

    Every value has an uncertainty sigma, the sigmoid of a raw value: 1/2 (e^2 / 2 + log(sigma + 0.3)) with
    e = error / sigma, weighted as in `DarknetSquares`; 0.3 is a lower bound (Darknet).  weight: Darknet's
    iou_normalizer and uc_normalizer.
    """

    weight: float = 0.75
    name: str = "box"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("anchors", "uncertainty", "exponential sides")

    def __call__(self, pairs: Pairs) -> Tensor:
        raw = at_least_float32(gather_rows(pairs.predictions.regression, pairs.matches.priors))
        sigma = raw[..., 1::2].sigmoid()
        likelihood = (box_errors(pairs, "exponential") / sigma.clamp(min=1e-4)).square() / 2 + (sigma + 0.3).log()
        return mean_over_images(pairs, 0.5 * likelihood.sum(-1) * size_weight(pairs) * class_shares(pairs))


@dataclass(frozen=True)
class DarknetObjectness:
    """YOLOv4's objectness loss: cross-entropy over all priors, summed, divided by the number of images.

    weight: Darknet's obj_normalizer.  balance: its value for each level, in the order of rows; () for 1 each.
    squares: half the squared error of the probability instead: equal to Darknet's gradient where a sigmoid is part of
    the convolution (YOLOv4-CSP), which multiplies it by p (1 - p) again.
    The target is the assigner's objectness if it has one, else 1 with an object and 0 without. Ignored priors are left
    out.
    """

    weight: float = 1.0
    balance: tuple[float, ...] = ()
    squares: bool = False
    name: str = "objectness"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("objectness",)

    def __call__(self, pairs: Pairs) -> Tensor:
        logits = pairs.objectness
        target = pairs.has_object if pairs.matches.objectness is None else pairs.matches.objectness
        loss = pairs.without_ignored(elementwise_loss(logits, target.to(logits.dtype), self.squares))
        if self.balance:
            loss = loss * values_of_levels(self.balance, pairs.predictions.priors, loss.dtype, "balance")
        return loss.sum() / len(loss)


@dataclass(frozen=True)
class DarknetClasses:
    """YOLOv4's class loss: cross-entropy over the classes of every prior with an object, summed, divided by the images.

    smoothing: targets are 1 - smoothing / 2 and smoothing / 2 (label_smooth_eps).  focal: the factor of Darknet's focal
    loss, 1/2 (1 - p) (1 - p - 2 p log p) of the object's class, on all classes of a prior's first object; it carries no
    gradient, since Darknet multiplies the gradient with it.  squares: as in `DarknetObjectness`.

    All classes of a prior's objects are targets; each prior counts once.
    """

    weight: float = 1.0
    smoothing: float = 0.0
    focal: bool = False
    squares: bool = False
    name: str = "classes"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, pairs: Pairs) -> Tensor:
        rows, valid = pairs.matches.priors, pairs.valid
        first = first_occurrences(rows, valid)
        further = first_occurrences(rows * pairs.classes.shape[-1] + pairs.labels, valid) & ~first
        own = pairs.classes.gather(2, pairs.labels.unsqueeze(-1)).squeeze(-1)
        absent = self._error(own, self.smoothing / 2)
        present = self._error(own, 1 - self.smoothing / 2)
        whole = self._error(pairs.classes, self.smoothing / 2).sum(-1) - absent + present
        if not self.focal:
            return mean_over_images(pairs, whole * first + (present - absent) * further)
        factor = torch.where(first, self._factor(own.detach()), 0.0)
        # The first object's loss for the class of a further object is subtracted again: that class has its own loss.
        added = torch.zeros_like(pairs.predictions.boxes[..., 0]).to(factor.dtype).scatter_add_(1, rows, factor)
        return mean_over_images(pairs, whole * factor + (present - added.gather(1, rows) * absent) * further)

    def _error(self, logits: Tensor, target: float) -> Tensor:
        return elementwise_loss(logits, torch.full_like(logits, target), self.squares)

    def _factor(self, logits: Tensor) -> Tensor:
        probability = logits.sigmoid()
        return 0.5 * (1 - probability) * (1 - probability - 2 * probability * logsigmoid(logits))


def elementwise_loss(logits: Tensor, target: Tensor, squares: bool) -> Tensor:
    """Returns the binary cross-entropy of each value, or half the squared error of its probability."""
    if squares:
        return 0.5 * (logits.sigmoid() - target).square()
    return binary_cross_entropy_with_logits(logits, target, reduction="none")


def values_of_levels(values: tuple[float, ...], priors: Priors, dtype: torch.dtype, setting: str) -> Tensor:
    """Returns (N,) for every prior the value of its level; ConfigError that names the setting for another count."""
    if len(values) != len(priors.shapes):
        raise ConfigError(
            f"'{setting}' has {len(values)} values, and the head has {len(priors.shapes)} levels.",
            "Give one number for each level, or () for none.",
        )
    found = torch.zeros_like(priors.levels, dtype=dtype)
    for level, value in enumerate(values):  # without a copy from the host, for which the device would wait
        found = found.masked_fill(priors.levels == level, value)
    return found


def input_sides(priors: Priors) -> Tensor:
    """Returns width and height (2,) of the network's input in pixels."""
    height, width = priors.shapes[0]
    stride = priors.strides[0]
    return torch.stack((stride * width, stride * height))


def box_errors(pairs: Pairs, coordinates: str) -> Tensor:
    """Returns (B, P, 4) predicted minus target values: centres in cells, sides in the encoding of the head."""
    priors = pairs.predictions.priors
    assert priors.sizes is not None  # the terms that call this need "anchors"
    rows = pairs.matches.priors
    raw = at_least_float32(gather_rows(pairs.predictions.regression, rows))
    if raw.shape[-1] == 8:
        raw = raw[..., ::2]
    target, box = pairs.target_boxes, pairs.boxes
    strides = priors.strides.to(box.dtype)[rows].unsqueeze(-1)
    centre = (box[..., :2] + box[..., 2:] - target[..., :2] - target[..., 2:]) / 2 / strides
    ratio = (target[..., 2:] - target[..., :2]).clamp(min=1e-6) / priors.sizes.to(box.dtype)[rows]
    sides = raw[..., 2:].sigmoid() - ratio.sqrt() / 2 if coordinates == "sigmoid" else raw[..., 2:] - ratio.log()
    return torch.cat((centre, sides), -1)


def size_weight(pairs: Pairs) -> Tensor:
    """Returns (B, P): 2 minus the part of the input that the object covers."""
    sides = input_sides(pairs.predictions.priors).to(pairs.target_boxes.dtype)
    return 2 - ((pairs.target_boxes[..., 2:] - pairs.target_boxes[..., :2]) / sides).prod(-1)


def class_shares(pairs: Pairs) -> Tensor:
    """Returns (B, P): 1 / the number of different classes among the objects of a pair's prior."""
    rows = pairs.matches.priors
    new = first_occurrences(rows * pairs.classes.shape[-1] + pairs.labels, pairs.valid).to(pairs.boxes.dtype)
    counts = torch.zeros_like(pairs.predictions.boxes[..., 0]).to(new.dtype).scatter_add_(1, rows, new)
    return 1 / counts.gather(1, rows).clamp(min=1)


def first_occurrences(keys: Tensor, valid: Tensor) -> Tensor:
    """Returns a mask (B, P) of the valid pairs whose key no earlier valid pair of the image has."""
    keys = torch.where(valid, keys, -1)
    ordered, order = keys.sort(dim=1, stable=True)
    fresh = torch.ones_like(valid)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(valid).scatter(1, order, fresh) & valid


def mean_over_images(pairs: Pairs, values: Tensor) -> Tensor:
    """Returns the sum of `values` (B, P) over valid pairs, divided by the images of the batch."""
    return torch.where(pairs.valid, values, 0.0).sum() / max(len(values), 1)
