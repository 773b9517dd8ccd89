"""The two tasks of a training, detection and classification: first checks, metrics, and report.

The loop, the run's folder and everything else is one and the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from onelook import run_files
from onelook.data import Dataset
from onelook.data.images import decode_image
from onelook.data.loader import Batch
from onelook.errors import ImageError, UserError, did_you_mean
from onelook.evaluation import Evaluation, evaluate
from onelook.evaluation.classes import top_k
from onelook.evaluation.coco import STATS
from onelook.losses.classifier import ClassLoss
from onelook.losses.detection_loss import DetectionLoss
from onelook.ops.nms import with_thresholds
from onelook.predict.runtimes.torch import TorchRuntime
from onelook.report.build import draw_evaluated, worst_images
from onelook.report.training import report_training
from onelook.training.batches import make_loader
from onelook.training.micro_batches import split_batch
from onelook.training.preflight import check_files, check_images, inspect_data, positives_per_object, save_first_batch
from onelook.training.processes import ProcessGroup, any_process
from onelook.training.recipe import Recipe
from onelook.training.result import RunResult
from onelook.training.run import Run
from onelook.types import UNDEFINED
from onelook.weights import restore
from onelook.weights.checkpoint import read_checkpoint
from onelook.weights.header import Header
from onelook.weights.safetensors_file import write_safetensors

FIRST_BATCHES = 2  # that are looked at before the first epoch
FEW_POSITIVES = 0.5  # priors an object: below, half of the objects or more teach nothing
LOGGED_IMAGES = 4  # of the validation split, drawn for TensorBoard and its like after each evaluation
WATCHED_IMAGES = 6  # of the validation split, the worst ones, on the live page
TRAINING_IMAGES = 100  # at most, that the best weights are evaluated on, for the difference to the validation images
EVALUATION = (0.01, 0.65)  # confidence and IoU, as `onelook val`


class Task(Protocol):
    """A task. metric_names: the keys of what `metrics` returns."""

    metric_names: ClassVar[tuple[str, ...]]

    def report_first_batches(self, run: Run, batches: Sequence[Batch]) -> None:
        """Reports statistics of the first batches, before training starts."""
        ...

    def metrics(self, network: Any, *, validation: Dataset, run: Run) -> Mapping[str, float]:
        """Evaluates the network on the validation split, over all processes; returns metrics by name."""
        ...

    def finish(self, run: Run, trained: RunResult, training: Dataset, validation: Dataset | None) -> None:
        """Writes the report of a finished run, or says how its weights are used."""
        ...


@dataclass(frozen=True)
class DetectionTask:
    """Object detection."""

    loss: DetectionLoss
    metric_names: ClassVar[tuple[str, ...]] = STATS

    def report_first_batches(self, run: Run, batches: Sequence[Batch]) -> None:
        train_state, process_group = run.train_state, run.train_state.process_group
        # The batches are those of all processes: more than this one's device need hold.
        share = run.recipe.batch_size // (process_group.size * run.recipe.accumulate)
        micro_batches = (part for batch in batches for part in split_batch(batch, share))
        on_device = (
            (images.to(process_group.device), targets.to(process_group.device)) for images, targets in micro_batches
        )
        positives = positives_per_object(train_state.detector, self.loss.assigner, on_device, train_state.autocast)
        if positives is None:
            return
        run.log.info(f"In the first batches, {positives:.1f} priors are assigned to each object, on average.")
        if positives < FEW_POSITIVES:
            run.log.warning(
                "To many objects no prior is assigned: look at the drawn batch, and at the size of the objects."
            )

    def metrics(self, network: Any, *, validation: Dataset, run: Run) -> Mapping[str, float]:
        backend = TorchRuntime(network, run.train_state.process_group.device, size=run.recipe.input_size)
        evaluation = evaluate(backend, validation, with_thresholds(backend.evaluating, *EVALUATION))
        epoch = (run.record.rows[-1]["epoch"] if run.record.rows else 0) + 1  # its row is written after this
        if run.loggers.takes_images:
            for row in range(min(LOGGED_IMAGES, len(validation))):
                with suppress(ImageError):  # the evaluation has read it; it may be gone by now
                    image = draw_evaluated(evaluation, validation, evaluation.truth.names, row)
                    run.loggers.image(f"validation {row + 1}", image, epoch)
        if run.log.monitor is not None:
            worst = worst_images(evaluation, validation, evaluation.truth.names, WATCHED_IMAGES)
            run.log.monitor.images(epoch, [(image.caption, image.jpeg) for image in worst])
        return evaluation.stats

    def finish(self, run: Run, trained: RunResult, training: Dataset, validation: Dataset | None) -> None:
        """Evaluates the best weights once more and writes the report."""
        process_group, best = run.train_state.process_group, trained.folder / run_files.BEST_WEIGHTS
        any_process(True, process_group.device)  # the main process has written the weights when all have come here
        evaluation = train_ap = None
        if validation is not None and best.is_file():
            backend = TorchRuntime(restore(best), process_group.device, size=run.recipe.input_size)
            evaluation = evaluate(backend, validation, with_thresholds(backend.evaluating, *EVALUATION))
            if process_group.size == 1:  # where one of several failed at an image, the others would wait for it
                train_ap = _training_ap(backend, training, min(len(validation), TRAINING_IMAGES))
        if process_group.is_main and evaluation is not None:
            run.write_card(_add_results(best, evaluation))
            if (best_f1 := evaluation.f1_curve.best_f1) > 0:
                run.log.info(f"The best confidence is {evaluation.best_confidence:.2f} (mean F1 {best_f1:.3f}).")
        if process_group.is_main:
            path, advice = report_training(
                trained,
                run.recipe,
                training,
                validation,
                evaluation=evaluation,
                device=process_group.device,
                train_ap=train_ap,
            )
            run.log.info(f"The report is {path}.")
            for one in advice:
                run.log.info(f"Next: {one.action}. {one.figure}.")


def last_evaluations(training: Dataset, validation: Dataset | None, processes: int) -> float:
    """How many times an evaluation of the validation images follows the last step of a training.

    The last weights, the best ones for the report, and some training images with them (see `DetectionTask.finish`).
    """
    if not validation or processes > 1 or not training.has_boxes:
        return 2.0
    return 2.0 + min(len(validation), TRAINING_IMAGES, len(training)) / len(validation)


def _training_ap(backend: TorchRuntime, training: Dataset, count: int) -> float | None:
    """AP on some training images, evenly spaced over the set; None where one is unreadable, or there are no objects."""
    rows = np.unique(np.linspace(0, len(training) - 1, min(count, len(training))).round().astype(np.int64))
    try:
        found = evaluate(backend, training.view(rows), with_thresholds(backend.evaluating, *EVALUATION)).stats["AP"]
    except ImageError:
        return None
    return None if found == UNDEFINED else found


def _add_results(path: Path, evaluation: Evaluation) -> Header:
    """Adds the AP of the classes and the confidence with the best F1 to the description of a weights file.

    Its tensors stay as they are. Returns the description.
    """
    checkpoint = read_checkpoint(path)
    assert checkpoint.header is not None  # a run has written it
    found = {
        "best_confidence": evaluation.best_confidence,
        "best_f1": evaluation.f1_curve.best_f1,
        "per_class": evaluation.per_class,
    }
    header = replace(checkpoint.header, trained={**(checkpoint.header.trained or {}), **found})
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}  # the file is mapped
    write_safetensors(path, tensors, header)
    return header


@dataclass(frozen=True)
class ClassificationTask:
    """Image classification."""

    metric_names: ClassVar[tuple[str, ...]] = ("top1", "top5")

    def report_first_batches(self, run: Run, batches: Sequence[Batch]) -> None:
        """Nothing is reported."""

    def metrics(self, network: Any, *, validation: Dataset, run: Run) -> Mapping[str, float]:
        return top_k(network, validation, run.recipe.input_size, run.train_state.process_group.device)

    def finish(self, run: Run, trained: RunResult, training: Dataset, validation: Dataset | None) -> None:
        """Reports how the weights are used; everything else is in metrics.csv."""
        best = trained.folder / run_files.BEST_WEIGHTS
        run.log.info(f"A detector starts from this backbone with: onelook train DATA --model NAME --weights {best}")


def task_of(recipe: Recipe, training: Dataset) -> Task:
    """The task of a recipe; UserError where the data set is for another one."""
    loss, has_classes = recipe.loss, not training.has_boxes
    if isinstance(loss, ClassLoss):
        if has_classes:
            return ClassificationTask()
        raise UserError(
            f"'{training.described_by}' has boxes, and the recipe trains a classifier of images.",
            "Give a folder with one folder of images a class, or the recipe of a detector.",
        )
    if has_classes:
        raise UserError(
            f"'{training.described_by}' has class folders and no boxes, and the recipe trains a detector.",
            "Leave the recipe away to train a classifier, or give a data set with boxes.",
        )
    return DetectionTask(loss)


def check_metric(task: Task, recipe: Recipe, validation: Dataset | None) -> None:
    """UserError for a metric that no evaluation of the training metric_names; checked before training begins."""
    if validation is None:
        if recipe.patience is not None:
            raise UserError(
                "There is nothing to evaluate on, so that patience could never stop the training.",
                "Give --val-split (in Python: validation), or leave patience away.",
            )
    elif recipe.metric not in task.metric_names:
        raise UserError(
            f"metric={recipe.metric} is nothing that the evaluation metric_names."
            f"{did_you_mean(recipe.metric, task.metric_names)}",
            f"Choose one of: {', '.join(task.metric_names)}.",
        )


def preflight(task: Task, run: Run, training: Dataset, validation: Dataset | None) -> None:
    """Checks the data and the first batches before the first epoch, in the main process."""
    recipe, process_group = run.recipe, run.train_state.process_group
    if not process_group.is_main:
        return
    check_files(recipe, training, validation)
    check_images(validation)
    found = inspect_data(recipe, training, validation)
    run.log.reporter.info("\n".join([found.table(), *found.notes]))
    for warning in found.warnings:
        run.log.warning(warning)
    with make_loader(training, recipe, ProcessGroup(0, 1, process_group.device), workers=0) as batches:
        first = list(islice(batches.epoch(0, recipe.augment_at(0), 0), FIRST_BATCHES))
    path = save_first_batch(
        run.folder / run_files.FIRST_BATCH, first[0].images.numpy(), first[0].targets, training.names
    )
    run.log.info(f"The first batch is drawn in {path}.")
    if run.loggers.takes_images:
        run.loggers.image("first batch", decode_image(path), 0)
    task.report_first_batches(run, first)
