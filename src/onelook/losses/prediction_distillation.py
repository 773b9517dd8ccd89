"""Distillation of predictions: the student learns the scores, boxes and distributions that a teacher predicts.

All heads return `Predictions`, so teacher and student may be of any family. Their predictions are compared cell by cell
of the levels that both have (`cells_in_common`); each term is a mean over these cells, weighted by the teacher's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onelook.ops.iou import box_iou, generalized_iou
from onelook.ops.precision import at_least_float32
from onelook.ops.priors import level_starts
from onelook.ops.reduce import mean_over_processes
from onelook.types import Predictions


@dataclass(frozen=True, eq=False)
class Cells:
    """What one detector predicts in K cells: one prior each.

    log_scores: (B, K, C) logarithms of the class scores.  boxes: (B, K, 4) xyxy pixels.  regression: (B, K, R) raw.
    """

    log_scores: Tensor
    boxes: Tensor
    regression: Tensor


def log_scores(predictions: Predictions) -> Tensor:
    """Returns (B, N, C) logarithms of the class scores: of class probability times objectness, where there is one.

    What heads without NMS add (`unique`, `certainty`) is left out: it says which prior is chosen, not what it shows.
    """
    classes = at_least_float32(predictions.classes)
    if predictions.objectness is None:
        return F.logsigmoid(classes)
    objectness = F.logsigmoid(at_least_float32(predictions.objectness)).unsqueeze(-1)
    return objectness.expand_as(classes) if predictions.scored_by_objectness else F.logsigmoid(classes) + objectness


def cells_in_common(student: Predictions, teacher: Predictions) -> tuple[Cells, Cells]:
    """Returns what student and teacher predict in the cells of the levels that both have, the student's order.

    Levels of equal grids are compared; both have seen images of one size, so that their strides are equal too. Where
    the teacher has several priors in a cell (anchors), the one with the highest score counts; where the student has,
    the one whose box overlaps that of the teacher most. ValueError where no grid is common.
    """
    ours, theirs = [], []
    starts, teacher_starts = level_starts(student.priors), level_starts(teacher.priors)
    all_scores, teacher_scores = log_scores(student), log_scores(teacher)
    grids = list(teacher.priors.shapes)
    for level, shape in enumerate(student.priors.shapes):
        if shape not in grids:
            continue
        other = grids.index(shape)
        rows = slice(teacher_starts[other], teacher_starts[other + 1])
        target = _Level(shape, rows, teacher, teacher_scores)
        target_cells = target.chosen(target.log_scores.amax(-1))
        own = _Level(shape, slice(starts[level], starts[level + 1]), student, all_scores)
        theirs.append(target_cells)
        ours.append(own.chosen(box_iou(own.boxes.detach(), target_cells.boxes.unsqueeze(1))))
    if not ours:
        raise ValueError("teacher and student have no grid of cells in common")
    return _joined(ours), _joined(theirs)


class _Level:
    """The rows of one level as (B, anchors, cells, ...)."""

    def __init__(self, shape: tuple[int, int], rows: slice, predictions: Predictions, scores: Tensor) -> None:
        cells = shape[0] * shape[1]
        values = (scores, at_least_float32(predictions.boxes), at_least_float32(predictions.regression))
        self.log_scores, self.boxes, self.regression = (value[:, rows].unflatten(1, (-1, cells)) for value in values)

    def chosen(self, preference: Tensor) -> Cells:
        """The prior of every cell whose `preference` (B, anchors, cells) is the highest."""
        values = (self.log_scores, self.boxes, self.regression)
        if preference.shape[1] == 1:
            return Cells(*(value.squeeze(1) for value in values))
        best = preference.argmax(1, keepdim=True).unsqueeze(-1)
        return Cells(*(value.gather(1, best.expand(-1, -1, -1, value.shape[-1])).squeeze(1) for value in values))


def _joined(levels: Sequence[Cells]) -> Cells:
    return Cells(
        torch.cat([level.log_scores for level in levels], 1),
        torch.cat([level.boxes for level in levels], 1),
        torch.cat([level.regression for level in levels], 1),
    )


def score_loss(student: Tensor, teacher: Tensor, focus: float) -> Tensor:
    """Quality focal loss (GFL sec. 3.2) of the student's scores to the teacher's, both (B, K, C) logarithms.

    The cross-entropy of every cell and class times |teacher's - student's| ** `focus`, over the sum of the teacher's
    scores: its mean over the processes, and 1 at least, where nothing is in the images.
    """
    ours = student.clamp(max=-1e-6)  # so that the logarithm of 1 - score is finite
    target = teacher.exp()
    entropy = -(target * ours + (1.0 - target) * torch.log(-torch.expm1(ours)))
    if focus:
        entropy = entropy * (target - ours.exp()).abs() ** focus
    return entropy.sum() / mean_over_processes(target.sum()).clamp(min=1.0)


def box_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """1 - GIoU of the student's boxes with the teacher's (B, K, 4), as a mean with the weights (B, K)."""
    return weighted_mean(1.0 - generalized_iou(student, teacher), weights)


def distribution_loss(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Localisation distillation (LD, Zheng et al. 2022): divergence of the distributions of the distances to the sides.

    student, teacher: (B, K, 4 * bins) logits; bin k is the distance k strides in both. The Kullback-Leibler divergence
    at a temperature, times the squared temperature, is averaged over the sides and, with the weights (B, K), over the
    cells. Where the teacher has more bins, those above the student's last one count as that one; where it has fewer,
    they have no probability.
    """
    ours = (student.unflatten(-1, (4, -1)) / temperature).log_softmax(-1)
    target = (teacher.unflatten(-1, (4, -1)) / temperature).softmax(-1)
    bins, more = ours.shape[-1], target.shape[-1] - ours.shape[-1]
    if more > 0:
        target = torch.cat((target[..., : bins - 1], target[..., bins - 1 :].sum(-1, keepdim=True)), -1)
    elif more < 0:
        target = F.pad(target, (0, -more))
    divergence = F.kl_div(ours, target, reduction="none").sum(-1).mean(-1)
    return weighted_mean(divergence * temperature**2, weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The sum of `values` times `weights`, over the sum of the weights: its mean over the processes, and 1 at least."""
    return (values * weights).sum() / mean_over_processes(weights.sum()).clamp(min=1.0)
