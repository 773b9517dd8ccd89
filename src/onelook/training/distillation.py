"""Knowledge distillation: the student also learns from a trained teacher, here the features of its neck.

Features are one way (DAMO-YOLO sec. 2.4); `prediction_distillation` has the other. Teacher and student may be of any
family: their levels are matched by stride, their channels by a projection. The teacher gets the student's input images,
letterboxed and augmented for the student: each network normalises RGB 0..255 itself, and positions agree because both
get the same images. For features, the classes of the two may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.errors import ConfigError
from onelook.losses.feature_distillation import Cwd, Mgd, Mimic, normalised
from onelook.networks.deploy import deploy
from onelook.networks.detector import Detector, FeaturePart
from onelook.ops.precision import at_least_float32
from onelook.training.gradient_balance import GradientBalance
from onelook.training.multiscale import DarknetShapes, MultiScale
from onelook.training.prediction_distillation import PredictionDistillation, PredictionTerm
from onelook.training.schedule import half_cosine
from onelook.types import Predictions

if TYPE_CHECKING:
    from onelook.types import Pyramid

TERM_NAME = "distillation"  # name of the loss term in logs


@dataclass(frozen=True)
class Distillation:
    """Settings of distillation: the loss between features of teacher and student, and the schedule of its weight.

    loss: distance of two feature maps, summed over the levels.  weight: its weight in the first step; it falls along a
    half cosine to `final` times that.  closing: whether distillation goes on in the closing epochs; otherwise the
    cosine ends before them.  normalise: whether the channels of both feature maps are normalised.  start: part of the
    time until then, 0 to 1, before which nothing is distilled.  share: None for the plain weight; otherwise the loss is
    first given this part of the gradient norm of the detection losses (`GradientBalance`).

    The defaults (`OFFICIAL_CODE`) are those of DAMO-YOLO's code. The paper (`PAPER`) starts with 0.5 "with cosine",
    without the end value, and distils nothing in the closing epochs, which have no mosaic.
    """

    loss: Cwd | Mgd | Mimic = Cwd()
    weight: float = 1.0
    final: float = 0.1
    closing: bool = True
    normalise: bool = True
    start: float = 0.0
    share: float | None = None

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and 0 <= self.final <= 1):
            raise ValueError(f"weight is 0 or more and final 0 to 1, not {self.weight} and {self.final}")
        if not 0 <= self.start < 1 or (self.share is not None and not self.share > 0):
            raise ValueError(f"start is 0 to below 1, share above 0, or none, not {self.start} and {self.share}")

    def at(self, step: float, steps_per_epoch: int, epochs: int, closing: int) -> float:
        """The weight in a step (0-based) of a training of `epochs`, of which the last `closing` are closing epochs."""
        end = (epochs if self.closing else epochs - closing) * steps_per_epoch
        if step >= end or step < self.start * end:
            return 0.0
        return self.weight * half_cosine(step / end, self.final)


OFFICIAL_CODE = Distillation()
PAPER = Distillation(weight=0.5, closing=False)


def matched_levels(student: FeaturePart, teacher: FeaturePart) -> tuple[tuple[int, int], ...]:
    """Pairs (student level, teacher level) of equal stride, by ascending stride.

    Of several levels with one stride (in a neck that feeds an auxiliary head) the first counts. ConfigError where no
    stride is common.
    """
    teacher_levels = {stride: level for level, stride in reversed(list(enumerate(teacher.strides)))}
    student_levels = {stride: level for level, stride in reversed(list(enumerate(student.strides)))}
    pairs = tuple(
        (student_levels[stride], teacher_levels[stride])
        for stride in sorted(student_levels)
        if stride in teacher_levels
    )
    if not pairs:
        raise ConfigError(
            f"Teacher and student have no stride in common: the teacher's features have {_listed(teacher.strides)}, "
            f"the student's {_listed(student.strides)}.",
            "Choose a teacher with a level of the same stride.",
        )
    return pairs


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(str(stride) for stride in strides)


def check_sizes(sizes: tuple[int, int], shape: MultiScale | DarknetShapes | None, teacher: Detector) -> None:
    """ConfigError unless every input size of the training is a multiple of the teacher's largest stride.

    sizes: (height, width) of the training input.  shape: how other sizes are drawn, None for one size only.
    """
    stride = max(teacher.backbone.strides)
    if any(side % stride for side in sizes):
        raise ConfigError(
            f"Images of {sizes[0]}x{sizes[1]} do not fit the teacher.",
            f"Choose a size that is a multiple of {stride}, its largest stride.",
        )
    if shape is not None and shape.stride % stride:
        raise ConfigError(
            f"The random sizes of the training are multiples of {shape.stride} and do not all fit the teacher.",
            f"Set multiscale.stride={stride}, its largest stride, or multiscale=none.",
        )


class AlignModule(nn.Module):
    """The align module: projects the student's features to the teacher's channels and compares them.

    One 1x1 convolution with bias for each level (a projection in both published forms), and what the distillation loss
    itself learns. It is trained with the student, but is no part of the student, its EMA or its weights files.
    """

    compares = "features"  # what of teacher and student

    def __init__(self, settings: Distillation, student: FeaturePart, teacher: FeaturePart) -> None:
        super().__init__()
        self.settings = settings
        self.balance = None if settings.share is None else GradientBalance(settings.share)
        self.levels = matched_levels(student, teacher)
        self.strides = tuple(student.strides[ours] for ours, _ in self.levels)
        channels = [(student.channels[ours], teacher.channels[theirs]) for ours, theirs in self.levels]
        self.project = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in channels)
        self.learnt = nn.ModuleList(settings.loss.trainable_module(theirs) for _, theirs in channels)

    def forward(self, student: Pyramid, teacher: Pyramid) -> Tensor:
        """The distillation loss between two feature pyramids, unweighted, in float32 or better."""
        parts = []
        for (ours, theirs), project, learnt in zip(self.levels, self.project, self.learnt):
            mine, target = project(at_least_float32(student[ours])), at_least_float32(teacher[theirs])
            if self.settings.normalise:
                mine, target = normalised(mine), normalised(target)
            parts.append(self.settings.loss(mine, target, learnt))
        return torch.stack(parts).sum()

    def zero_loss(self) -> Tensor:
        """A zero that depends on every parameter: the loss term of a step without distillation.

        DistributedDataParallel expects a gradient for every parameter, also where it is zero.
        """
        return torch.stack([parameter.sum() for parameter in self.parameters() if parameter.requires_grad]).sum() * 0.0


AnyDistillation = Distillation | PredictionDistillation


class Distiller:
    """The teacher, and the module that compares it with the student, as a training step uses them.

    The teacher is not a submodule of the step: it stays in evaluation mode, has no gradients and is in no checkpoint.
    It must be in deploy form, on the step's device and in its memory layout.
    """

    def __init__(self, teacher: Detector, align: AlignModule | PredictionTerm, every: int = 1) -> None:
        self.teacher, self.align, self.every = teacher, align, every

    def begin_step(self, number: int, weight: float) -> float:
        """The weight of the distillation term in a step; number: of the steps so far, weight: by the schedule."""
        weight = 0.0 if number % self.every else weight
        if weight and self.align.balance is not None:
            self.align.balance.begin_step(number // self.every)
        return weight

    @property
    def measures(self) -> bool:
        """Whether gradients are measured in this step, for which the head must not be compiled."""
        return self.align.balance is not None and self.align.balance.measures

    @torch.no_grad()
    def targets(self, images: Tensor) -> Pyramid | Predictions:
        """What the student is compared with: the teacher's features, or its predictions.

        images: (B, 3, H, W), float RGB 0..255, in the autocast precision.
        """
        return self.teacher.features(images) if isinstance(self.align, AlignModule) else self.teacher(images)

    def loss(
        self, task: Tensor, features: Pyramid, predictions: Predictions, targets: Pyramid | Predictions | None
    ) -> Tensor:
        """The distillation loss, unweighted but balanced. task: the sum of the detection losses.

        features, predictions: of the student.  targets: of `targets`, None in a step without distillation.
        """
        if targets is None:
            return self.align.zero_loss()
        pair = (predictions, targets) if isinstance(targets, Predictions) else (features, targets)
        term: Tensor = self.align(*pair)
        balance = self.align.balance
        if balance is None:
            return term
        if balance.measures:
            # Behind a frozen neck only the head is trained: the gradients are those at its outputs.
            heads = (predictions.classes, predictions.regression)
            balance.measure(task, term, features if any(one.requires_grad for one in features) else heads)
        return term * balance.factor()


def make_distiller(settings: AnyDistillation, student: Detector, teacher: Detector, device: torch.device) -> Distiller:
    """The distiller of a training, with a copy of the teacher in deploy form. ConfigError where the two do not fit."""
    align: AlignModule | PredictionTerm
    if isinstance(settings, Distillation):
        align, every = AlignModule(settings, student.neck, teacher.neck), 1
    else:
        align, every = PredictionTerm(settings, student, teacher), settings.every
    return Distiller(deploy(teacher).to(device), align.to(device), every)
