"""Distillation of predictions: settings, and the term that a training adds to its losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.errors import ConfigError
from onelook.losses.prediction_distillation import box_loss, cells_in_common, distribution_loss, score_loss
from onelook.training.gradient_balance import GradientBalance
from onelook.training.schedule import half_cosine

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.types import Predictions

_ANOTHER_WAY = "set distillation=Distillation(), which compares features and needs no classes in common"


@dataclass(frozen=True)
class PredictionDistillation:
    """Settings of the distillation of predictions: the student learns what the teacher predicts in the same cell.

    scores: weight of the quality focal loss to the teacher's scores, of the classes whose names both have.  focus: its
    exponent.  boxes: weight of 1 - GIoU with the teacher's boxes.  distributions: weight of localisation distillation
    (LD), for students and teachers whose heads predict distributions, else without effect.  temperature: of LD.
    sharpness: boxes and distributions of a cell count as the teacher's best score there to this power; at 1, a third
    of the weight is in cells without an object, whose boxes say nothing.
    share: the term gets this part of the gradient norm of the detection losses (`GradientBalance`), so that the three
    weights only count among each other; None takes them as they are.  start, end: part of the training, 0 to 1, from
    and until which there is distillation.  final: factor on the term at its end; it falls along a half cosine.
    every: 2 distils in every second step only, and so on; the teacher is not run in the others.
    """

    scores: float = 1.0
    boxes: float = 2.0
    distributions: float = 0.25
    focus: float = 2.0
    temperature: float = 1.0
    sharpness: float = 3.0
    share: float | None = 0.5
    start: float = 0.0
    end: float = 1.0
    final: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        weights = (self.scores, self.boxes, self.distributions)
        if not all(weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(f"the weights of scores, boxes and distributions are 0 or more, not all 0, not {weights}")
        if not (self.focus >= 0 and self.temperature > 0 and self.sharpness > 0):
            raise ValueError("focus is 0 or more, temperature and sharpness are above 0")
        if self.share is not None and not self.share > 0:
            raise ValueError(f"share is above 0, or none, not {self.share}")
        if not (0 <= self.start < self.end <= 1 and 0 <= self.final <= 1):
            raise ValueError("start, end and final are parts of a training, 0 to 1, and start is below end")
        if self.every < 1:
            raise ValueError(f"every is 1 or more, not {self.every}")

    def at(self, step: float, steps_per_epoch: int, epochs: int, closing: int) -> float:
        """The weight in a step (0-based) of a training of `epochs`; `closing` epochs are like the others here."""
        progress = step / (epochs * steps_per_epoch)
        if not self.start <= progress < self.end:
            return 0.0
        done = (progress - self.start) / (self.end - self.start)
        return half_cosine(done, self.final)


def classes_in_common(student: Detector, teacher: Detector) -> tuple[list[int], list[int]]:
    """Labels of the classes whose names both have: the student's, and the teacher's in the same order."""
    places = {name: label for label, name in enumerate(teacher.class_names)}
    pairs = [(label, places[name]) for label, name in enumerate(student.class_names) if name in places]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


class PredictionTerm(nn.Module):
    """Compares the predictions of student and teacher; nothing in it is trained.

    ConfigError where they have no stride, or, with a weight for scores, no class name in common. Without it, a teacher
    of other classes teaches boxes, weighted by its best score of all its classes.
    """

    compares = "predictions"  # what of teacher and student
    own: Tensor
    others: Tensor

    def __init__(self, settings: PredictionDistillation, student: Detector, teacher: Detector) -> None:
        super().__init__()
        self.settings = settings
        self.balance = None if settings.share is None else GradientBalance(settings.share)
        self.strides = tuple(sorted({*student.neck.strides} & {*teacher.neck.strides}))
        if not self.strides:
            strides = [", ".join(map(str, one.neck.strides)) for one in (teacher, student)]
            raise ConfigError(
                f"Teacher and student have no stride in common: the teacher predicts at {strides[0]}, the student at "
                f"{strides[1]}.",
                "Choose a teacher with a level of the same stride.",
            )
        ours, theirs = classes_in_common(student, teacher)
        if not ours and settings.scores:
            raise _no_common_class(student, teacher)
        bins = [_bins(one) for one in (student, teacher)]
        self._has_distributions = bool(settings.distributions) and min(bins) > 1
        if not (settings.scores or settings.boxes or self._has_distributions):
            raise ConfigError(
                "Only distributions are to be distilled, and the heads of student and teacher do not both have them.",
                "Set distillation.boxes above 0.",
            )
        self.register_buffer("own", torch.tensor(ours, dtype=torch.int64), persistent=False)
        self.register_buffer("others", torch.tensor(theirs, dtype=torch.int64), persistent=False)

    def forward(self, student: Predictions, teacher: Predictions) -> Tensor:
        """The distillation loss between predictions for the same images: a scalar in float32 or better."""
        settings = self.settings
        ours, theirs = cells_in_common(student, teacher)
        target = theirs.log_scores[..., self.others] if len(self.others) else theirs.log_scores
        weights = (settings.sharpness * target.amax(-1)).exp()
        parts = []
        if settings.scores:
            parts.append(settings.scores * score_loss(ours.log_scores[..., self.own], target, settings.focus))
        if settings.boxes:
            parts.append(settings.boxes * box_loss(ours.boxes, theirs.boxes, weights))
        if self._has_distributions:
            loss = distribution_loss(ours.regression, theirs.regression, weights, settings.temperature)
            parts.append(settings.distributions * loss)
        return torch.stack(parts).sum()

    def zero_loss(self) -> Tensor:
        """The loss term of a step without distillation."""
        return self.own.new_zeros((), dtype=torch.float32)


def _bins(detector: Detector) -> int:
    """Values of the distribution of a side; 0 for a head without distributions."""
    return int(getattr(detector.head, "bins", 0))


def _no_common_class(student: Detector, teacher: Detector) -> ConfigError:
    names = {whose: one.class_names for whose, one in (("teacher", teacher), ("student", student))}
    for whose, known in names.items():
        if not known:
            return ConfigError(
                f"The {whose} has no class names, by which the classes of teacher and student are matched.",
                "Give them when it is built or saved, set distillation.scores=0 to learn boxes only, or "
                f"{_ANOTHER_WAY}.",
            )
    listed = {whose: ", ".join(known[:5]) + (", ..." if len(known) > 5 else "") for whose, known in names.items()}
    return ConfigError(
        f"Teacher and student have no class in common: the teacher knows {listed['teacher']}, the student learns "
        f"{listed['student']}.",
        f"Choose a teacher of these classes, set distillation.scores=0 to learn its boxes only, or {_ANOTHER_WAY}.",
    )
