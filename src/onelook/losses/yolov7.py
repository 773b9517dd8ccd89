"""The loss terms of YOLOv7: means over each level, added over the levels; the objectness target is the overlap.

The published weights are for COCO: 80 classes, three levels, inputs of 640 pixels. `scaled` terms adapt them to the
data and network, as published: all by 3 / levels, classes by their number / 80, objectness by the area of the input
/ 640 squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onelook.losses.pairs import Pairs
from onelook.ops.iou import IouKind, box_iou
from onelook.ops.priors import level_starts
from onelook.types import Priors

_LEVELS, _CLASSES, _AREA = 3, 80, 640.0 * 640.0
_BALANCES = {3: (4.0, 1.0, 0.4)}  # of three levels, and of any other number up to five:
_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
_FOCAL_ALPHA = 0.25


@dataclass(frozen=True)
class LevelBoxIou:
    """Box loss 1 - CIoU of predicted box and object: mean over the pairs of a level, added over the levels.

    kind: "iou", "giou", "diou" or "ciou".  scaled: by 3 / levels.
    """

    weight: float = 0.05
    kind: IouKind = "ciou"
    scaled: bool = True
    name: str = "box"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, pairs: Pairs) -> Tensor:
        value = pairs.per_level(1 - box_iou(pairs.boxes, pairs.target_boxes, self.kind))
        return value * _level_gain(pairs) if self.scaled else value


@dataclass(frozen=True)
class LevelObjectness:
    """Binary cross-entropy of objectness: mean over all priors of a level, weighted and added over the levels.

    The target of a prior with an object is the current overlap of its box with the object, at least 0 and without
    gradient, else 0. Of several pairs of one prior the last counts (the published order is that of `AnchorCells`).

    kind: of the overlap.  soft: share of the overlap in the target; the rest is 1.  balance: weight of each level,
    finest first, None for the published one of that many levels.  reach: upper bound of the target: the overlap of the
    object with a box of its size whose centre lies at most this many cells from the prior's point on either axis (the
    "upper bound by distance" of YOLOv7 table 7); None for no bound except the head's, whose centres reach one cell.
    focal: exponent of the focal loss (Lin et al. 2017, alpha 0.25), 0 for none.  scaled: by 3 / levels and the input's
    area. Priors that the assigner ignores are left out.
    """

    weight: float = 0.7
    kind: IouKind = "ciou"
    soft: float = 1.0
    balance: tuple[float, ...] | None = None
    reach: float | None = None
    focal: float = 0.0
    scaled: bool = True
    name: str = "objectness"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("objectness",)

    def __call__(self, pairs: Pairs) -> Tensor:
        logits = pairs.objectness
        loss = pairs.without_ignored(_cross_entropy(logits, self.targets(pairs).to(logits.dtype), self.focal))
        priors = pairs.predictions.priors
        levels = loss.split([end - start for start, end in pairwise(level_starts(priors))], 1)
        value = torch.stack([part.mean() * gain for part, gain in zip(levels, self._balance(len(levels)))]).sum()
        return value * _level_gain(pairs) * (_input_area(priors) / _AREA) if self.scaled else value

    @torch.no_grad()
    def targets(self, pairs: Pairs) -> Tensor:
        """Returns the objectness target (B, N) of every prior."""
        overlap = box_iou(pairs.boxes, pairs.target_boxes, self.kind).clamp(min=0)
        target = (1.0 - self.soft) + self.soft * overlap
        if self.reach is not None:
            target = torch.minimum(target, self._bound(pairs, self.reach))
        # The last pair of a prior, found without relying on the order of writes, which differs between devices.
        none = torch.zeros_like(pairs.predictions.boxes[..., 0], dtype=torch.int64)
        place = torch.arange(1, target.shape[1] + 1, device=target.device) * pairs.valid
        last = none.scatter_reduce(1, pairs.matches.priors, place, "amax")
        padded = torch.cat([target.new_zeros(len(target), 1), target], 1)
        return padded.gather(1, last)

    def _bound(self, pairs: Pairs, reach: float) -> Tensor:
        """Returns (B, P): the overlap of an object's box with itself, moved by the centre's distance beyond reach."""
        low, high = pairs.target_boxes.split(2, -1)
        priors = pairs.predictions.priors
        points = priors.points.to(low.dtype)[pairs.matches.priors]
        strides = priors.strides.to(low.dtype)[pairs.matches.priors].unsqueeze(-1)
        beyond = (((low + high) / 2 - points).abs() - reach * strides).clamp(min=0)
        common = (high - low - beyond).clamp(min=0).prod(-1)
        return common / (2 * (high - low).prod(-1) - common)

    def _balance(self, levels: int) -> tuple[float, ...]:
        balance = self.balance if self.balance is not None else _BALANCES.get(levels, _BALANCE[:levels])
        if len(balance) != levels:
            raise ValueError(f"balance has weights for {len(balance)} levels, the head has {levels}")
        return balance


@dataclass(frozen=True)
class LevelClasses:
    """Binary cross-entropy over all classes of a pair: mean over the pairs of a level, added over the levels.

    The target of the object's class is the pair's quality. With a single class the loss is 0 (objectness alone is then
    the score).

    smoothing: of labels: targets range from half of it to 1 - half of it.  focal: exponent of
    the focal loss (alpha 0.25), 0 for none.  scaled: by 3 / levels and the number of classes / 80.
    """

    weight: float = 0.3
    smoothing: float = 0.0
    focal: float = 0.0
    scaled: bool = True
    name: str = "classes"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, pairs: Pairs) -> Tensor:
        count = pairs.classes.shape[-1]
        if count == 1:
            return pairs.classes.new_zeros(())
        target = pairs.class_quality * (1.0 - self.smoothing) + 0.5 * self.smoothing
        value = pairs.per_level(_cross_entropy(pairs.classes, target, self.focal).mean(-1))
        return value * _level_gain(pairs) * (count / _CLASSES) if self.scaled else value


def _cross_entropy(logits: Tensor, target: Tensor, focal: float) -> Tensor:
    """Returns the elementwise binary cross-entropy, with the factors of the focal loss if `focal` is above 0."""
    loss = binary_cross_entropy_with_logits(logits, target, reduction="none")
    if focal == 0:
        return loss
    probability = logits.sigmoid()
    correct = target * probability + (1 - target) * (1 - probability)
    alpha = target * _FOCAL_ALPHA + (1 - target) * (1 - _FOCAL_ALPHA)
    return loss * alpha * (1 - correct) ** focal


def _level_gain(pairs: Pairs) -> float:
    return _LEVELS / len(pairs.predictions.priors.shapes)


def _input_area(priors: Priors) -> Tensor:
    """Returns the number of pixels of the network's input, a scalar on the device."""
    height, width = priors.shapes[0]
    return height * width * priors.strides[0] ** 2
