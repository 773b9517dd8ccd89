"""Distillation (DAMO-YOLO sec. 2.5): a student learns the features of a teacher's neck beside its own task.

Teacher and student may be of any family: their levels are matched by stride, their channels by a projection. The
teacher sees the student's pictures, framed and augmented for the student: each network makes its own pixels of RGB
0..255, and positions agree because both see the same ones. Classes do not matter, they need not even be the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.errors import ConfigError
from onelook.losses.distillation import Cwd, Mgd, Mimic, normalised
from onelook.ops.precision import at_least_float32

if TYPE_CHECKING:
    from onelook.models.detector import Detector, FeaturePart
    from onelook.training.recipe import Recipe
    from onelook.types import Pyramid

TERM_NAME = "distillation"  # what the loss is called in logs


@dataclass(frozen=True)
class Distillation:
    """How much is learnt from a teacher's features, and by which loss.

    loss: the distance of two maps, summed over the levels.  weight: factor on it in the first step; it falls along half
    a cosine to `final` times as much.  closing: whether the teacher stays in the closing epochs; otherwise the cosine
    ends before them, and the student finishes alone.  normalise: whether the channels of both maps are normalised.

    The defaults (`OFFICIAL_CODE`) are DAMO-YOLO's code. The paper (`PAPER`) begins with 0.5 "with cosine", whose end it does not
    give, and lets the student finish alone on images without mosaic.
    """

    loss: Cwd | Mgd | Mimic = Cwd()
    weight: float = 1.0
    final: float = 0.1
    closing: bool = True
    normalise: bool = True

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and 0 <= self.final <= 1):
            raise ValueError(f"weight is 0 or more and final 0 to 1, not {self.weight} and {self.final}")

    def at(self, step: int, steps_per_epoch: int, epochs: int, closing: int) -> float:
        """The weight of a step (0-based) of a training of `epochs`, the last `closing` of them closing ones."""
        end = (epochs if self.closing else epochs - closing) * steps_per_epoch
        if step >= end:
            return 0.0
        return self.weight * (1.0 - (1.0 - self.final) * 0.5 * (1.0 - math.cos(math.pi * step / end)))


OFFICIAL_CODE = Distillation()
PAPER = Distillation(weight=0.5, closing=False)


def matched_levels(student: FeaturePart, teacher: FeaturePart) -> tuple[tuple[int, int], ...]:
    """(level of the student, level of the teacher) of equal stride, in the student's order.

    Of several levels of a stride (a neck that feeds an auxiliary head has them) the first counts. ConfigError where no
    stride is common.
    """
    theirs = {stride: level for level, stride in reversed(list(enumerate(teacher.strides)))}
    ours = {stride: level for level, stride in reversed(list(enumerate(student.strides)))}
    pairs = tuple((ours[stride], theirs[stride]) for stride in sorted(ours) if stride in theirs)
    if not pairs:
        raise ConfigError(
            f"No stride of the teacher's features ({_listed(teacher.strides)}) is one of the student's "
            f"({_listed(student.strides)}).",
            "Choose a teacher with a level of the same stride.",
        )
    return pairs


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(str(stride) for stride in strides)


def check_sizes(recipe: Recipe, teacher: Detector) -> None:
    """ConfigError unless every input size of a training fits the teacher's largest stride too."""
    stride = max(teacher.backbone.strides)
    sizes, shape = recipe.input_size, recipe.multiscale
    if any(side % stride for side in sizes):
        raise ConfigError(
            f"Pictures of {sizes[0]}x{sizes[1]} do not fit the teacher.",
            f"Choose a --size that is a multiple of {stride}, its largest stride.",
        )
    if shape is not None and shape.stride % stride:
        raise ConfigError(
            f"The random sizes of the training are multiples of {shape.stride} and do not all fit the teacher.",
            f"Set multiscale.stride={stride}, its largest stride, or multiscale=none.",
        )


class AlignModule(nn.Module):
    """What learns beside the student: the align module, and what a loss adds to it.

    A 1x1 convolution with bias a level takes the student's channels to the teacher's (a projection in both published
    forms). None of it is part of the student, of its average or of its files.
    """

    def __init__(self, settings: Distillation, student: FeaturePart, teacher: FeaturePart) -> None:
        super().__init__()
        self.settings = settings
        self.levels = matched_levels(student, teacher)
        channels = [(student.channels[ours], teacher.channels[theirs]) for ours, theirs in self.levels]
        self.project = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in channels)
        self.learnt = nn.ModuleList(settings.loss.learnt(theirs) for _, theirs in channels)

    def forward(self, student: Pyramid, teacher: Pyramid) -> Tensor:
        """The pyramids of two necks -> the loss without its weight, float32 at least."""
        parts = []
        for (ours, theirs), project, learnt in zip(self.levels, self.project, self.learnt):
            told, wanted = project(at_least_float32(student[ours])), at_least_float32(teacher[theirs])
            if self.settings.normalise:
                told, wanted = normalised(told), normalised(wanted)
            parts.append(self.settings.loss(told, wanted, learnt))
        return torch.stack(parts).sum()

    def rest(self) -> Tensor:
        """A zero that depends on every parameter: what a step without the teacher adds.

        Processes that share a training expect a gradient for each, also where it is none.
        """
        return torch.stack([parameter.sum() for parameter in self.parameters() if parameter.requires_grad]).sum() * 0.0


class Distiller:
    """A teacher as a training step uses it: two networks and what learns between them.

    The teacher is no module of the step: it is in evaluation mode whatever the step is in, has no gradient and is in no
    state. It is given as deployed, on the step's device and in its memory layout.
    """

    def __init__(self, teacher: Detector, align: AlignModule) -> None:
        self.teacher, self.align = teacher, align

    @torch.no_grad()
    def features(self, images: Tensor) -> Pyramid:
        """(B, 3, H, W) float RGB 0..255 -> the teacher's pyramid, in the precision around."""
        return self.teacher.features(images)
