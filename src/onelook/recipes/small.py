"""The recipe `small`: a published training, fitted to the number of its steps, to its images, and to their objects.

Published settings are made for hundreds of thousands of steps. In a few hundred of them an average over 5,000 steps
never forgets its first weights, a warm-up of 1,000 steps does not end, and images cut into mosaics and scaled by a
tenth to twice their size are another task than the one that is evaluated. The rules here are the same for all families.
Each is a function that stays within bounds; those of numbers reach the published value in long trainings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from onelook.assign.darknet_anchors import DarknetAnchors
from onelook.config import change, get
from onelook.losses.darknet_box_gradient import DarknetBoxGradient
from onelook.losses.detection_loss import DetectionLoss
from onelook.losses.yolov4 import DarknetBox, DarknetClasses, DarknetObjectness, DarknetSquares, GaussianBox
from onelook.networks.yolov4.architecture import Yolov4
from onelook.training.distillation import Distillation
from onelook.training.ema import Ema
from onelook.training.gradient_clip import RelativeClip
from onelook.training.multiscale import DarknetShapes, MultiScale
from onelook.training.prediction_distillation import PredictionDistillation
from onelook.training.recipe import Augment, Closing, Recipe, adapted
from onelook.training.schedule import WarmCosine

# An average over 5,000 steps and warm-ups of up to 2,000 (the published ones) are a small part of 40,000 steps; below,
# they are not. COCO's published trainings have 138,000 (batch 256) to 550,000 steps.
FEWEST_STEPS = 40_000
FULL_VARIETY = 100.0  # passes after which an image is shown with all of its published variety
LEAST_VARIETY = 0.1  # of the published variety, in any training
MULTISCALE_FROM = 50.0  # passes from which the input's size varies
CELL = 8.0  # pixels of the finest level: no head has one for objects that are smaller
MOST_WARMUP_STEPS = 1000  # as published for YOLOv4 and YOLOv7, in a training of any length
FEWEST_CLOSING_STEPS = 1000  # in which statistics and averages become those of whole images
COCO_OBJECTS = 7.3  # of an image of COCO train2017, on average
KNOWN_CLASSES_RATE = 0.1  # of the published learning rate, from weights that know all classes
_OF_TRUE_BOX = ("", ".per_cell")  # ends of the paths that mean `DarknetBox` itself, after those of its term
_SUMS_OVER_OBJECTS = (DarknetBox, DarknetBoxGradient, DarknetSquares, GaussianBox, DarknetObjectness, DarknetClasses)
REFERENCE_SIDE = 640.0  # pixels of the input that YOLOv7's objectness loss is stated for


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The training that a recipe is fitted to.

    images: that an epoch shows.  epochs: passes over them.  batch: images a step.  has_weights: whether it begins with
    trained weights.  knows_classes: whether these were trained on all of its classes.  sides: sides (square roots of
    the areas) of the objects in pixels of the network's input that a tenth and nine tenths of them are below; None
    without objects.  objects: an image has, on average.
    """

    images: int
    epochs: int
    batch: int
    has_weights: bool
    knows_classes: bool = False
    sides: tuple[float, float] | None = None
    objects: float = 0.0

    def __post_init__(self) -> None:
        if min(self.images, self.epochs, self.batch) < 1:
            raise ValueError(f"images, epochs and batch are at least 1, not {self.images}, {self.epochs}, {self.batch}")

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch, whose last batch is filled up."""
        return -(-self.images // self.batch)

    @property
    def steps(self) -> int:
        """The steps of the training."""
        return self.epochs * self.steps_per_epoch

    @property
    def is_small(self) -> bool:
        """Whether the published settings do not suit it: it begins with weights, or has few steps."""
        return self.has_weights or self.steps < FEWEST_STEPS


def small(published: Recipe, facts: Facts, keep: Iterable[str] = ()) -> Recipe:
    """A published recipe, fitted to a training.

    keep: dotted paths that are set by someone else afterwards: no rule changes them, what is in them, or the kind of
    what they are in. The recipe's other settings (model, momentum, colours, and nearly all of assigner and loss) stay
    as published.
    """
    planned = adapted(published, _names(published), facts.epochs, None, None)
    planned = replace(planned, batch_size=facts.batch)
    kept = tuple(keep)
    rules = _rules(published, planned, facts, kept)
    rules = {path: value for path, value in rules.items() if not _is_kept(path, planned, kept)}
    return change(planned, rules | darknet_box(published, kept) | distillation(published, kept))


def _names(recipe: Recipe) -> tuple[str, ...]:
    return tuple(map(str, range(recipe.model.num_classes)))


def _is_kept(path: str, recipe: Recipe, kept: tuple[str, ...]) -> bool:
    """Whether a path is one of those kept, or in one of them, or holds one and is not none."""
    if any(f"{path}.".startswith(f"{one}.") for one in kept):
        return True
    return get(recipe, path) is not None and any(one.startswith(f"{path}.") for one in kept)


def _by_field(path: str, before: object, after: object) -> dict[str, Any]:
    """The change of a setting: field by field where its kind stays."""
    if type(before) is not type(after) or not is_dataclass(before):
        return {path: after}
    changed = (one.name for one in fields(before) if getattr(before, one.name) != getattr(after, one.name))
    return {f"{path}.{name}": getattr(after, name) for name in changed}


def _rules(published: Recipe, planned: Recipe, facts: Facts, kept: tuple[str, ...]) -> dict[str, Any]:
    """What the recipe has differently, by path."""
    side = float(min(planned.input_size))
    kinds = {
        "schedule": schedule(facts),
        "ema": ema(published.ema, facts),
        "multiscale": multiscale(published.multiscale, side, facts),
        "closing": closing(published, side, facts),
    }
    new: dict[str, Any] = {
        "optimizer.lr_per_image": _scaled(
            rate(published.optimizer.lr_per_image, published.batch_size, facts), by_objects(published, facts, kept)
        ),
        "optimizer.weight_decay": weight_decay(published.optimizer.weight_decay, facts),
        "clip": clip(facts),
    }
    for path, value in kinds.items():
        new |= _by_field(path, getattr(planned, path), value)
    new |= {f"augment.{path}": value for path, value in augmentation(published.augment, side, facts).items()}
    return new | _objectness(published, side) | darknet_anchors(published)


def schedule(facts: Facts) -> WarmCosine:
    """One cosine over the whole training, for all families: few steps leave no time to wait for milestones.

    Warm-up: a twentieth of the steps, at most 1,000; long enough for momentum and for the statistics of the new images.
    The rate of the last twentieth is constant, at a twentieth, as published for YOLOX: the average needs weights that
    stay in one place.
    """
    warmup = min(0.05 * facts.steps, MOST_WARMUP_STEPS)
    return WarmCosine(
        warmup_epochs=_rounded(warmup / facts.steps_per_epoch),
        warmup_power=1.0,
        warmup_start=0.1,  # from 0, the first of few steps would be lost
        flat_epochs=_rounded(0.05 * facts.epochs),
        floor=0.05,
    )


def rate(published: float, batch: int, facts: Facts) -> float:
    """The learning rate per image. batch: the published one.

    From weights that know all classes it is a tenth of the published one: no row of the head starts anew, and a few
    steps at a high rate lose more than they gain.

    Otherwise a short training needs a higher rate to get anywhere: up to three times as high, with the root of its
    steps. Published rates are for large batches, and proportional to them; the noise of small ones allows more, in
    proportion to the root of the batch (Krizhevsky 2014), which is made use of from scratch, where there is nothing to
    lose. A step never has a higher rate than the published one of a whole batch.
    """
    if facts.has_weights and facts.knows_classes:
        return _scaled(published, KNOWN_CLASSES_RATE)
    by_batch = 1.0 if facts.has_weights else max(1.0, math.sqrt(batch / facts.batch))
    by_length = min(3.0, max(1.0, math.sqrt(FEWEST_STEPS / 2 / facts.steps)))
    highest = max(1.0, batch / facts.batch)
    return _scaled(published, min(by_batch * by_length, highest))


def by_objects(published: Recipe, facts: Facts, keep: Iterable[str] = ()) -> float:
    """The factor on the rate for losses that are sums over the objects of an image (YOLOv4's), at most 1.

    The other families' divide by the number of pairs, as may terms that are set afterwards (`loss` or `loss.terms`
    among those to keep). With twice as many objects as in COCO, for which the rate is published, gradients are twice as
    long, and a few steps at three times the rate can end in a network that learns no more.
    """
    terms = published.loss.terms if isinstance(published.loss, DetectionLoss) else ()
    if not any(isinstance(term, _SUMS_OVER_OBJECTS) for term in terms) or {"loss", "loss.terms"} & set(keep):
        return 1.0
    return min(1.0, COCO_OBJECTS / max(facts.objects, 1.0))


def weight_decay(published: float, facts: Facts) -> float:
    """Weights shrink by rate x decay in a step: with fewer steps a stronger decay, up to twice, for the same effect."""
    return _scaled(published, min(2.0, max(1.0, (FEWEST_STEPS / facts.steps) ** 0.25)))


def clip(facts: Facts) -> RelativeClip:
    """The largest gradient, in the usual norm of the steps before: one outlier can undo a good part of few steps.

    The norm of a mean of B gradients varies by about one part in the root of B, so that the limit of a small batch is
    looser. A norm in absolute numbers would be another one for each loss.
    """
    return RelativeClip(_rounded(1 + 16 / math.sqrt(facts.batch)), memory=min(50, max(5, facts.steps // 20)))


def ema(published: Ema | None, facts: Facts) -> Ema:
    """The average reaches back over a twentieth of the steps, at most as far as published (5,000 steps).

    It is what is evaluated and saved. It forgets the first weights within its warm-up, which is as long. Where a recipe
    has no average (most of YOLOv4), it gets one: in a training that ends early the last weights are noisy.
    """
    longest = published or Ema()
    reach = min(max(2.0, facts.steps / 20), 1 / (1 - longest.decay))
    warmup = min(max(1.0, facts.steps / 20), longest.warmup or Ema().warmup)
    return Ema(decay=_rounded(1 - 1 / reach, 6), warmup=_rounded(warmup), first=longest.first)


def variety(facts: Facts) -> float:
    """The part of the published variety of images, 0.1 to 1: the root of the passes over 100.

    Augmentation keeps a network from learning images by heart, which takes many passes. Before that, images that look
    like those of the evaluation teach more.
    """
    return min(1.0, max(LEAST_VARIETY, math.sqrt(facts.epochs / FULL_VARIETY)))


def multiscale(
    published: MultiScale | DarknetShapes | None, side: float, facts: Facts
) -> MultiScale | DarknetShapes | None:
    """Random input sizes from 50 passes on, their range growing until 100 passes.

    The smallest size is not below the one at which a tenth of the objects is smaller than a cell. Without it, a step
    takes the time of its own size, and the statistics are those of the size that is evaluated.
    """
    part = min(1.0, max(0.0, (facts.epochs - MULTISCALE_FROM) / (FULL_VARIETY - MULTISCALE_FROM)))
    if published is None or part == 0:
        return None
    least = _smallest_scale(facts)
    if isinstance(published, DarknetShapes):
        factor = min(published.factor**part, 1 / least)
        return replace(published, factor=_rounded(factor)) if factor > 1 else None
    low = max(published.low**part, least) if published.low < 1 else published.low
    high = published.high**part
    cells = (round(low * side / published.stride), round(high * side / published.stride))
    return replace(published, low=_rounded(low), high=_rounded(high)) if cells[0] < cells[1] else None


def closing(published: Recipe, side: float, facts: Facts) -> Closing | None:
    """The last epochs with whole images: 1,000 steps, within a twentieth (as published) and three tenths of all.

    Statistics and averages need that many steps to become those of whole images, however long the training is. What
    the family publishes for these epochs is kept; the others get their augmentation without mosaic and MixUp.
    """
    share = min(0.3, max(0.05, FEWEST_CLOSING_STEPS / facts.steps))
    epochs = min(facts.epochs, round(share * facts.epochs))
    if not epochs:
        return None
    own = published.closing or Closing(0, whole_images(published.augment))
    augment = own.augment
    if augment is not None:
        augment = change(augment, augmentation(augment, side, facts))
    return replace(own, epochs=epochs, augment=augment)


def whole_images(augment: Augment) -> Augment:
    """An augmentation of a family that publishes no closing phase, without mosaic, MixUp and pasted objects."""
    changes = {"mosaic": 0.0, "mix": None, "paste": None}
    return change(augment, {name: value for name, value in changes.items() if hasattr(augment, name)})


def augmentation(augment: Augment, side: float, facts: Facts) -> dict[str, Any]:
    """What the augmentation has differently, by path in it. side: of the network's input, pixels.

    Probabilities of mosaic, MixUp and pasted objects: the published ones times `variety`. Mosaics are rarer where
    objects are large: a quarter of a mosaic shows half of the input's side, and cuts what is larger.

    Scales, and Darknet's crops: the published range to the power of `variety`, around 1. Nothing is made so small that
    a tenth of the objects would be below a cell, nor so large that a tenth would be larger than the input; only MixUp's
    second image keeps its published scales. Objects are dropped for their size only where they are half as large as the
    smallest tenth of the set.
    """
    part = variety(facts)
    largest = facts.sides[1] if facts.sides else 0.0
    least, most = _smallest_scale(facts), max(1.0, side / max(largest, 1.0))
    fits = min(1.0, side / 2 / max(largest, 1.0))
    new: dict[str, Any] = dict(_smallest(augment, facts))
    if hasattr(augment, "mosaic"):
        new["mosaic"] = _rounded(augment.mosaic * part * fits)
    for name in ("mix", "paste"):
        if hasattr(getattr(augment, name, None), "probability"):
            new[f"{name}.probability"] = _rounded(getattr(augment, name).probability * part)
    if hasattr(augment, "affine"):
        low, high = augment.affine.scale
        new["affine.scale"] = (
            _rounded(max(min(low, 1.0) ** part, least) if low < 1 else low),
            _rounded(min(high**part, most) if high > 1 else high),
        )
    if hasattr(augment, "jitter"):
        new["jitter"] = _rounded(min(augment.jitter * part, (1 / least - 1) / 2))
    if hasattr(augment, "resize"):
        new["resize"] = _rounded(max(1.0, min(augment.resize**part, 1 / least, most)))
    return new


def _smallest(augment: Augment, facts: Facts) -> dict[str, Any]:
    """The limit below which objects are dropped, where an augmentation states it as a side (YOLOX)."""
    if facts.sides is None or not hasattr(augment, "smallest") or hasattr(augment, "reference_side"):
        return {}
    return {"smallest": _rounded(min(augment.smallest, facts.sides[0] / 2))}


def _smallest_scale(facts: Facts) -> float:
    """The smallest scale, at most 1, at which nine tenths of the objects are still as large as a cell."""
    return 1.0 if facts.sides is None else min(1.0, CELL / max(facts.sides[0], 1.0))


def _objectness(published: Recipe, side: float) -> dict[str, Any]:
    """YOLOv7's objectness without its factor, the input's area over that of 640 pixels, where the input is smaller.

    At 96 pixels the factor is 0.02, and a network that hardly learns objectness finds nothing.
    """
    terms = [term for term in published.loss.terms if term.name == "objectness"]
    has_factor = any(is_dataclass(term) and "scaled" in {one.name for one in fields(term)} for term in terms)
    return {"loss.terms.objectness.scaled": False} if has_factor and side < REFERENCE_SIDE else {}


def darknet_anchors(published: Recipe) -> dict[str, Any]:
    """YOLOv4's tiny models with several anchors for an object, as the large ones have.

    With the best anchor only, few steps have few examples. Where the published ones leave out objects that are nearest
    to an anchor without a level, no object below 15 pixels is learnt.
    """
    assigner = getattr(published.loss, "assigner", None)
    if not isinstance(assigner, DarknetAnchors):
        return {}
    threshold = min(assigner.iou_threshold, DarknetAnchors().iou_threshold)
    return {"loss.assigner.iou_threshold": threshold, "loss.assigner.unused": ()}


def darknet_box(published: Recipe, keep: Iterable[str]) -> dict[str, Any]:
    """YOLOv4's boxes with the gradient of the authors' code, whose steps are larger than those of the true one.

    Without its limits: `clip` has one. `DarknetBox` stays where its own setting (`per_cell`), the whole term, or the
    form of the boxes is among those to keep.
    """
    loss, model, kept = published.loss, published.model, set(keep)
    if not isinstance(loss, DetectionLoss) or not isinstance(model, Yolov4) or {"model", "model.coordinates"} & kept:
        return {}
    new: dict[str, Any] = {}
    for place, term in enumerate(loss.terms):
        own = {f"loss.terms.{one}{end}" for one in (place, term.name) for end in _OF_TRUE_BOX}
        if isinstance(term, DarknetBox) and not (own | {"loss", "loss.terms"}) & kept:
            new[f"loss.terms.{term.name}"] = DarknetBoxGradient(
                weight=term.weight, kind=term.kind, coordinates=model.coordinates, name=term.name
            )
    return new


def distillation(published: Recipe, keep: Iterable[str]) -> dict[str, Any]:
    """With a teacher: its predictions are the additional targets, not its features as published.

    In a few hundred steps the published loss of features has many times the gradient of the detection losses, and the
    student becomes much worse. Features stay where a setting that only they have is among those to keep.
    """
    of_features = {one.name for one in fields(Distillation)} - {one.name for one in fields(PredictionDistillation)}
    whole = {"distillation"} | {f"distillation.{name}" for name in of_features}
    if not isinstance(published.distillation, Distillation):
        return {}
    if any(one in whole or one.startswith("distillation.loss.") for one in keep):
        return {}
    return {"distillation": PredictionDistillation()}


def _scaled(published: float, factor: float) -> float:
    return published if factor == 1 else _rounded(published * factor)


def _rounded(number: float, digits: int = 4) -> float:
    """To so many significant digits, as a file is easier to read."""
    return float(f"{number:.{digits}g}")
