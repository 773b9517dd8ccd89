"""The recipe: all settings of a training as one value, without paths, devices and processes (those are the run's)."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from onelook.augment.batch_augment import WithBatchAugments
from onelook.augment.sampler import ImageSampler
from onelook.config import change
from onelook.data.order import Sampling
from onelook.errors import ConfigError, UsageError
from onelook.layers.cross_iteration_batch_norm import Cbn
from onelook.layers.cross_mini_batch_norm import Cmbn
from onelook.losses.classifier import ClassLoss
from onelook.losses.detection_loss import DetectionLoss
from onelook.networks.detector import Architecture
from onelook.training.adversarial import Adversarial
from onelook.training.distillation import TERM_NAME, Distillation
from onelook.training.dropblock import DropBlock
from onelook.training.ema import Ema
from onelook.training.frozen_start import FrozenStart
from onelook.training.gradient_clip import RelativeClip
from onelook.training.multiscale import DarknetShapes, MultiScale
from onelook.training.optimizer import AdamW, Sgd
from onelook.training.prediction_distillation import PredictionDistillation
from onelook.training.schedule import Constant, CosineRestarts, MultiStep, OneCycle, Polynomial, WarmCosine
from onelook.types import Sample, counted, text_repr

AnyLoss = DetectionLoss | ClassLoss
AnySchedule = WarmCosine | OneCycle | MultiStep | Polynomial | CosineRestarts | Constant


class Augment(Protocol):
    """Augments a sample; `sampler(rng)` returns another random image of the set, `sampler.size` is the input's size."""

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample: ...


@dataclass(frozen=True)
class Closing:
    """The closing phase, the last epochs: weaker augmentation, another loss. None keeps the recipe's own."""

    epochs: int
    augment: Augment | None = None
    loss: AnyLoss | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"closing epochs cannot be negative, got {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a complete training: model, loss, augmentation, optimizer, schedule and the rest.

    model: the architecture.  loss: assigner and loss terms.  augment: augmentation of a training image.  optimizer: SGD
    or AdamW.  schedule: learning rate and momentum of every step.  epochs: passes over the data.  seed: of every random
    choice.  ema: moving average of the weights, which is what is evaluated; None for without.  multiscale: random input
    sizes.  closing: the last epochs, with other augmentation or loss.  batch_size: images an optimizer step, over all
    processes and micro-batches.  size: (height, width) of the training input, None for the architecture's own.
    accumulate: micro-batches of a step (gradient accumulation).  clip: largest gradient norm of the detector, as a
    number or relative to that of the steps before.
    max_labels: most objects of an image, None for no limit.  freeze: names (glob patterns) of parameters that are
    not trained.  sampling: which images, and how often.  sync_batch_norm: batch norm over the images of all
    processes.  normalization: replaces batch norm in training, None keeps it.  dropblock, adversarial: None for
    without.  join_micro_batches: whether micro-batches are joined where the random input size is small, as long as
    none has more pixels than one of the largest size (YOLOv4's dynamic mini-batch; Darknet's adds images to the
    step).  batch_augments: augmentations of the augmented images, in order (CutMix, blur, erasing); not used where
    `closing` has an augmentation.  nonfinite: what a loss that is not finite does to the training; its step never
    changes a weight.  evaluate_every: epochs between evaluations; every closing epoch is evaluated (YOLOX).
    metric: decides which epoch is the best.  patience: evaluations without improvement before early stopping, None
    for never.  nominal_batch: images of a step that another `batch` (an argument of a training) is accumulated to,
    None to make steps of that batch.  grow_accumulation: whether steps are those of YOLOv7's code: the first has one
    micro-batch, the others of the warm-up more and more of them, and a step may reach into the next epoch (see
    `StepPlan`); needs `nominal_batch` and `OneCycle`, whose steps are micro-batches then.  fixed_phases: whether
    warm-up and closing phase keep their length in a training of other epochs (`shortened`).  least_anchor_recall: best
    possible recall below which a new training replaces the anchors by ones that fit its objects; None never does.
    float16_start: whether the weights are rounded to float16 before the first step (YOLOv7).  frozen_start: parameters
    that are not trained in the first steps.  distillation: settings of distillation; the run has the teacher.
    pretraining: recipe of the classifier training whose backbone weights the run starts with; None starts with the
    weights of the run, or at random.
    """

    model: Architecture
    loss: AnyLoss
    augment: Augment
    optimizer: Sgd | AdamW
    schedule: AnySchedule
    epochs: int
    batch_size: int
    size: tuple[int, int] | None = None
    seed: int = 0
    ema: Ema | None = Ema()
    multiscale: MultiScale | DarknetShapes | None = None
    closing: Closing | None = None
    distillation: Distillation | PredictionDistillation | None = None
    accumulate: int = 1
    clip: float | RelativeClip | None = None
    max_labels: int | None = 120
    freeze: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    sync_batch_norm: bool = False
    normalization: Cmbn | Cbn | None = None
    dropblock: DropBlock | None = None
    adversarial: Adversarial | None = None
    join_micro_batches: bool = False
    batch_augments: tuple[Augment, ...] = ()
    nonfinite: Literal["stop", "skip"] = "stop"
    evaluate_every: int = 10
    metric: str = "AP"
    patience: int | None = None
    nominal_batch: int | None = None
    grow_accumulation: bool = False
    fixed_phases: bool = False
    least_anchor_recall: float | None = None
    float16_start: bool = False
    frozen_start: FrozenStart | None = None
    pretraining: Recipe | None = None

    __repr__ = text_repr

    def __str__(self) -> str:
        height, width = self.input_size
        network = f"{type(self.model).__name__}, {self.model.num_classes} classes, input {height} x {width}"
        terms = " + ".join(term.name for term in self.loss.terms)
        return f"{network}; {counted(self.epochs, 'epoch')} in batches of {self.batch_size} images; loss {terms}"

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into {self.accumulate} equal micro-batches")
        if self.sync_batch_norm and isinstance(self.normalization, Cbn):
            raise ValueError("Cbn uses the micro-batches of one process: it cannot be combined with sync_batch_norm")
        if self.join_micro_batches and (self.accumulate == 1 or self.multiscale is None):
            raise ValueError(
                "join_micro_batches needs multiscale, and accumulate above 1: micro-batches that can be joined"
            )
        if self.grow_accumulation and (self.nominal_batch is None or not isinstance(self.schedule, OneCycle)):
            raise ValueError(
                "grow_accumulation needs a nominal_batch and the schedule OneCycle, in whose warm-up it is"
            )
        if self.grow_accumulation and self.join_micro_batches:
            raise ValueError("grow_accumulation and join_micro_batches cannot be combined: both regroup micro-batches")
        if self.size is not None and (min(self.size) < 32 or any(side % 32 for side in self.size)):
            raise ValueError(f"the size is (height, width), each a multiple of 32, not {self.size}")
        if self.closing is not None and self.closing.epochs > self.epochs:
            raise ConfigError(
                f"epochs {self.epochs} is less than closing.epochs {self.closing.epochs}, the closing phase.",
                "Shorten the whole training with --epochs (in Python: onelook.train(..., epochs=...)), or set "
                "closing.epochs as well.",
            )
        if "image classes" in self.model.provides and self.distillation is not None:
            raise ValueError("an image classifier has no neck, so distillation cannot be used with it")
        if self.pretraining is not None and "image classes" not in self.pretraining.model.provides:
            raise ValueError(
                "pretraining is the recipe of an image classifier, whose backbone the detector starts with"
            )
        if self.least_anchor_recall is not None and getattr(self.model, "anchors", None) is None:
            raise ValueError(f"least_anchor_recall needs a model with anchors, not {type(self.model).__name__}")
        for loss in (self.loss, self.closing.loss if self.closing is not None else None):
            if loss is not None:
                self._check_needs(loss)

    def _check_numbers(self) -> None:
        """ValueError for a number out of range."""
        counts = ("epochs", "batch_size", "accumulate", "max_labels", "evaluate_every", "patience", "nominal_batch")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed is a whole number from 0 on, not {self.seed}")
        if self.least_anchor_recall is not None and not 0 <= self.least_anchor_recall <= 1:
            raise ValueError(f"least_anchor_recall lies between 0 and 1, not {self.least_anchor_recall}")
        if isinstance(self.clip, float | int) and not self.clip > 0:
            raise ValueError(f"clip is a norm above 0, or none, not {self.clip}")

    def _check_needs(self, loss: AnyLoss) -> None:
        """ValueError for a loss that needs outputs the head does not have, or that leaves a part of it untrained."""
        if isinstance(loss, DetectionLoss) and "image classes" in self.model.provides:
            raise ValueError("an image classifier needs a ClassLoss, not a DetectionLoss")
        for need, part in loss.needs().items():
            if need not in self.model.provides:
                raise ValueError(f"{part} needs {need}, which the head of {type(self.model).__name__} does not provide")
        if isinstance(loss, DetectionLoss) and "auxiliary" in self.model.provides and loss.auxiliary is None:
            # It would cost time without being trained, and distributed training would wait for its gradients.
            raise ValueError(
                "the auxiliary head would not be trained: set loss.auxiliary, or build the model without that head"
            )

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the training input."""
        return self.size or self.model.size

    def is_closing(self, epoch: int) -> bool:
        """Whether an epoch (0-based) belongs to the closing phase."""
        return self.closing is not None and epoch >= self.epochs - self.closing.epochs

    def augment_at(self, epoch: int) -> Augment:
        """The augmentation of an epoch (0-based)."""
        closing = self.closing if self.is_closing(epoch) else None
        if closing is not None and closing.augment is not None:
            return closing.augment
        return WithBatchAugments(self.augment, self.batch_augments) if self.batch_augments else self.augment

    def loss_at(self, epoch: int) -> AnyLoss:
        """The loss of an epoch (0-based)."""
        closing = self.closing if self.is_closing(epoch) else None
        return self.loss if closing is None or closing.loss is None else closing.loss

    def distillation_weight_at(self, step: float, steps_per_epoch: int) -> float:
        """The weight of the distillation term in a step (0-based); 0 without distillation."""
        if self.distillation is None:
            return 0.0
        closing = 0 if self.closing is None else self.closing.epochs
        return self.distillation.at(step, steps_per_epoch, self.epochs, closing)

    def terms_at(self, epoch: int) -> tuple[str, ...]:
        """The names of the loss terms of an epoch (0-based), in the order of logs."""
        teacher = () if self.distillation is None else (TERM_NAME,)
        return (*(term.name for term in self.loss_at(epoch).terms), *teacher)

    def evaluates(self, epoch: int) -> bool:
        """Whether the model is evaluated after an epoch (0-based); always true for the last one."""
        return self.is_closing(epoch) or (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with another number of epochs; its warm-up, closing phase and evaluations shrink (never grow) with it.

    The warm-up shrinks in proportion, to one epoch at least (in steps, without a minimum); the closing phase is
    a fifth of the training at most; there are about ten evaluations before it. The flat end of a schedule has the same
    limit as the closing phase. With `fixed_phases` only what is longer than the whole training becomes shorter.
    """
    if epochs < 1:
        raise ConfigError(f"epochs is at least 1, not {epochs}.")
    closing = recipe.closing
    if recipe.fixed_phases:
        if closing is not None:
            closing = replace(closing, epochs=min(closing.epochs, epochs))
        return replace(recipe, epochs=epochs, closing=closing)
    if closing is not None:
        closing = replace(closing, epochs=min(closing.epochs, epochs // 5))
    changes: dict[str, Any] = {}
    schedule = recipe.schedule
    if is_dataclass(schedule):
        known = {field.name: getattr(schedule, field.name) for field in fields(schedule)}
        if known.get("warmup_epochs"):
            share = known["warmup_epochs"] * epochs / recipe.epochs
            changes["warmup_epochs"] = min(known["warmup_epochs"], max(1.0, share), float(epochs))
        if known.get("warmup_steps"):
            changes["warmup_steps"] = min(known["warmup_steps"], round(known["warmup_steps"] * epochs / recipe.epochs))
        if known.get("flat_epochs"):
            changes["flat_epochs"] = min(known["flat_epochs"], float(epochs // 5))
    every = max(1, min(recipe.evaluate_every, epochs // 10))
    return replace(recipe, epochs=epochs, closing=closing, schedule=replace(schedule, **changes), evaluate_every=every)


def batch_settings(recipe: Recipe, batch: int) -> dict[str, Any]:
    """The settings of a training in batches of so many images, which a recipe may accumulate to its nominal batch.

    The warm-up of `OneCycle` counts batches in the official code, so that it has fewer steps where they accumulate;
    with `grow_accumulation` it counts batches here too.
    """
    if recipe.nominal_batch is None:
        return {"batch_size": batch}
    accumulate = max(round(recipe.nominal_batch / batch), 1)
    new: dict[str, Any] = {"batch_size": batch * accumulate, "accumulate": accumulate}
    if isinstance(recipe.schedule, OneCycle) and not recipe.grow_accumulation:
        new["schedule.warmup_steps"] = round(recipe.schedule.warmup_steps * recipe.accumulate / accumulate)
    return new


def adapted(chosen: Recipe, names: tuple[str, ...], epochs: int | None, size: int | None, batch: int | None) -> Recipe:
    """The recipe for these classes, with other epochs, input side or batch; None keeps what the recipe has."""
    for option, number in (("epochs", epochs), ("batch", batch)):
        if number is not None and number < 1:
            raise UsageError(f"{option} is at least 1, not {number}.")
    if epochs is not None and epochs != chosen.epochs:
        chosen = shortened(chosen, epochs)
    new: dict[str, Any] = {"model.num_classes": len(names)}
    if batch is not None:
        new |= batch_settings(chosen, batch)
    if size is not None:
        if size < 32 or size % 32:
            below, above = size // 32 * 32, (max(size, 0) // 32 + 1) * 32
            near = f"{below} or {above}" if below > 0 else str(above)
            raise UsageError(f"The size {size} is no multiple of 32.", f"Use size {near}.")
        new["size"] = (size, size)
    return change(chosen, new)
