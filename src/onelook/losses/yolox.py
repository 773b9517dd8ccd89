"""The loss terms of YOLOX: IoU, objectness, classes (sec. 2.1), and the L1 loss of its last epochs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onelook.losses.pairs import Emphasis, Pairs
from onelook.ops.boxes import xyxy_to_cxcywh
from onelook.ops.gather import gather_rows
from onelook.ops.iou import IouKind, box_iou
from onelook.ops.precision import at_least_float32


@dataclass(frozen=True)
class BoxIou:
    """IoU loss (also GIoU, DIoU, CIoU): 1 - overlap of predicted box and object, mean over pairs.

    kind: "iou", "giou", "diou" or "ciou".  squared: 1 - overlap^2, as official YOLOX (the paper has "IoU loss"); the
    square of a negative overlap (GIoU, DIoU, CIoU) is taken as negative, so that it stays the worst.
    emphasis: weight of a pair in the mean.
    """

    weight: float = 5.0
    kind: IouKind = "iou"
    squared: bool = True
    emphasis: Emphasis = "pairs"
    name: str = "box"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, pairs: Pairs) -> Tensor:
        overlap = box_iou(pairs.boxes, pairs.target_boxes, self.kind)
        if self.squared:
            overlap = overlap**2 if self.kind == "iou" else overlap * overlap.abs()
        return pairs.weighted(1 - overlap, self.emphasis)


@dataclass(frozen=True)
class Objectness:
    """Objectness loss: binary cross-entropy over all priors, target 1 with an object; sum divided by the pairs.

    Priors that the assigner ignores are left out.
    """

    weight: float = 1.0
    name: str = "objectness"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("objectness",)

    def __call__(self, pairs: Pairs) -> Tensor:
        loss = binary_cross_entropy_with_logits(pairs.objectness, pairs.has_object, reduction="none")
        return pairs.without_ignored(loss).sum() / pairs.count


@dataclass(frozen=True)
class Classes:
    """Class loss: binary cross-entropy over all classes of every pair; the target of the object's class is the quality.

    smoothing: e makes targets y * (1 - e) + e / 2 (class label smoothing, Szegedy et al. 2016, in Darknet's form for
    sigmoid outputs).  focal: g multiplies each value by |target - probability|^g (focal loss, Lin et al. 2017, eq. 4,
    for soft targets; 2 in the paper, without its class balance).
    """

    weight: float = 1.0
    smoothing: float = 0.0
    focal: float = 0.0
    name: str = "classes"

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.focal < 0:
            raise ValueError(f"smoothing is in [0, 1) and focal is not negative, not {self.smoothing} and {self.focal}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, pairs: Pairs) -> Tensor:
        target = pairs.class_quality
        if self.smoothing:
            target = target * (1 - self.smoothing) + self.smoothing / 2
        loss = binary_cross_entropy_with_logits(pairs.classes, target, reduction="none")
        if self.focal:
            loss = loss * (target - pairs.classes.sigmoid()).abs() ** self.focal
        return pairs.total(loss)


@dataclass(frozen=True)
class RawL1:
    """L1 loss of the raw regression: centre offsets in cells and logarithms of the sides, four values for each pair.

    For heads that regress (x / s - cell, y / s - cell, log(w / s), log(h / s)) at priors whose points are cell centres.
    Added when strong augmentation ends (official YOLOX, not in the paper).
    """

    weight: float = 1.0
    name: str = "l1"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("cell offsets",)

    def __call__(self, pairs: Pairs) -> Tensor:
        rows = pairs.matches.priors
        raw = at_least_float32(gather_rows(pairs.predictions.regression, rows))
        points = pairs.predictions.priors.points.to(raw.dtype)[rows]
        strides = pairs.predictions.priors.strides.to(raw.dtype)[rows].unsqueeze(-1)
        centre, sides = xyxy_to_cxcywh(pairs.target_boxes.to(raw.dtype)).split(2, -1)
        centre = (centre - points) / strides + 0.5
        sides = (sides / strides + 1e-8).log()
        return pairs.total((raw - torch.cat([centre, sides], -1)).abs())
