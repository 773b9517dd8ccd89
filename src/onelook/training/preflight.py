"""Checks of the data before the first epoch, so that a training that cannot succeed is reported at its start.

An AP that stays 0 nearly always comes from the data: no labels, boxes in another unit, classes in another order,
objects too small at the training size. Each of these has a warning here.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from onelook.data.anchors import flat
from onelook.data.boxes import clean_boxes
from onelook.data.images import check_image
from onelook.data.objects import evaluated_areas, flat_objects, has_outline, object_sizes
from onelook.data.order import chosen_rows, class_labels
from onelook.data.paths import other_spelling
from onelook.data.split import Dataset
from onelook.data.uncounted import uncounted_objects
from onelook.devices import num_cores
from onelook.draw import draw_detections, enlarge_small_image, write_image
from onelook.errors import DataError, ImageError
from onelook.training.fit_anchors import MIN_ANCHOR_RECALL, anchor_recall
from onelook.training.step_plan import StepPlan
from onelook.types import Targets

if TYPE_CHECKING:
    from onelook.losses.pairs import Assigner
    from onelook.training.recipe import Recipe

MIN_OBJECT_SIDE = 4.0  # pixels of the network input; smaller objects are half a cell of the finest usual level
SIZE_RANGES = {  # the last letter of APs, ARm and the like: area in square pixels of the image, both ends included
    "s": ("small objects (below 32x32 pixels)", 0.0, 32.0**2),
    "m": ("medium objects (from 32x32 to 96x96 pixels)", 32.0**2, 96.0**2),
    "l": ("large objects (above 96x96 pixels)", 96.0**2, math.inf),
}
MAX_PRINTED_CLASSES = 40  # rows of the printed table; the JSON form has all


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """Numbers of images and objects in a split. usable: boxes that training keeps; per_class: (C,) of those."""

    split: str
    images: int
    background: int
    unlabelled: int
    objects: int
    usable: int
    crowds: int
    per_class: np.ndarray
    median_side: float


@dataclass(frozen=True, eq=False)
class Preflight:
    """The result of the checks before a training. warnings: messages, each with a remedy."""

    names: tuple[str, ...]
    splits: tuple[SplitCounts, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "classes": list(self.names),
            "splits": {
                s.split: {
                    "images": s.images,
                    "background": s.background,
                    "unlabelled": s.unlabelled,
                    "objects": s.objects,
                    "usable": s.usable,
                    "crowds": s.crowds,
                    "per_class": dict(zip(self.names, s.per_class.tolist())),
                }
                for s in self.splits
            },
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The counts of the splits and of the classes, as lines of text."""
        lines = [("images", "images"), ("  without objects", "background"), ("objects", "usable"), ("crowds", "crowds")]
        rows = [["", *(split.split for split in self.splits)]]
        rows += [[label, *(f"{getattr(split, name):,}" for split in self.splits)] for label, name in lines]
        for index, name in list(enumerate(self.names))[:MAX_PRINTED_CLASSES]:
            rows.append([f"  {name}", *(f"{int(split.per_class[index]):,}" for split in self.splits)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        text = [
            "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:]))]).rstrip()
            for first, *rest in rows
        ]
        if len(self.names) > MAX_PRINTED_CLASSES:
            text.append(f"  ... and {len(self.names) - MAX_PRINTED_CLASSES} more classes")
        return "\n".join(text)

    def __str__(self) -> str:
        return "\n".join([self.table(), *self.notes, *(f"warning: {warning}" for warning in self.warnings)])


def inspect_data(recipe: Recipe, training: Dataset, validation: Dataset | None, notes: Sequence[str] = ()) -> Preflight:
    """Counts images and objects of both splits, and warns of what would keep AP at 0.

    DataError where all objects to train on are crowds, of which nothing can be learnt.
    Both splits must have the same class names. In the training split only images in the recipe's sampling count.
    """
    sampling = recipe.sampling
    labels = class_labels(training.names, sampling.classes)
    seen = replace(training.view(chosen_rows(training, sampling, recipe.seed)), beyond_image=sampling.beyond_image)
    splits = [count_split(seen, recipe.input_size, "training", labels)]
    if 0 < splits[0].objects == splits[0].crowds:
        raise DataError(
            f"All {splits[0].objects} objects of '{training.described_by}', split '{training.split}', that would be "
            "trained on are crowds, which training leaves out: nothing could be learnt.",
            f"Annotate single objects (iscrowd 0). All problems: onelook check {training.described_by}",
        )
    warnings = _training_warnings(seen, splits[0], recipe, labels)
    if validation is not None:
        splits.append(count_split(validation, recipe.input_size, "validation"))
        if missing := missing_for_metric(recipe.metric, validation):
            warnings.append(
                f"The validation split has no {missing}: {recipe.metric} is undefined on it, so that no epoch can be "
                "the best. The last weights will be saved as the best."
            )
        warnings += _validation_warnings(training.names, splits[0], splits[1])
    return Preflight(training.names, tuple(splits), tuple(warnings), tuple(notes))


def rates_too_low(recipe: Recipe, batches: int) -> str:
    """A warning where the learning rate only warms up in this training; "" where there is more.

    batches: micro-batches of an epoch.
    """
    plan, before, first = StepPlan(recipe, batches), 0.0, 0.0
    steps = plan.total
    for step in range(steps):
        scale = recipe.schedule(plan.position(*plan.place(step)), plan.epoch_length, recipe.epochs).scale
        if scale >= 1 or scale < before:
            return ""
        before, first = scale, scale if step == 0 else first
    count = "The only step" if steps == 1 else f"All {steps} steps"
    if before == 0:
        problem = f"{count} of this training would have the learning rate 0, and nothing would be learnt"
    elif before > first:
        problem = f"{count} of this training lie in the warm-up, up to {100 * before:.2g} % of the learning rate"
    else:
        return ""
    shorter = ", or a shorter schedule.warmup_epochs" if hasattr(recipe.schedule, "warmup_epochs") else ""
    return f"{problem}: give more epochs, a smaller batch{shorter}."


def check_files(recipe: Recipe, training: Dataset, validation: Dataset | None) -> None:
    """DataError where an image file of the training does not exist; lists folders, without a query for each file."""
    rows = chosen_rows(training, recipe.sampling, recipe.seed)
    for dataset, chosen in ((training, rows), (validation, None)):
        if dataset is None or dataset.shards:  # that they are there, the index was just compared with
            continue
        paths = [str(dataset.path(row)) for row in (range(len(dataset)) if chosen is None else chosen.tolist())]
        missing = _missing(paths)
        if missing:
            raise DataError(
                f"{len(missing)} of {len(paths)} images of '{dataset.described_by}', split '{dataset.split}', do not "
                f"exist, such as '{missing[0]}'.{other_spelling(missing[0])}",
                "Add the files, or take the images out of the annotations. All problems: onelook check "
                f"{dataset.described_by}",
            )


def check_images(validation: Dataset | None) -> None:
    """DataError where a validation image is damaged, which would end the training after its first epoch."""
    if validation is None:
        return

    def error_of(row: int) -> str:
        try:
            check_image(validation.image_file(row))
        except ImageError as error:
            return error.message
        return ""

    with ThreadPoolExecutor(min(8, 2 * num_cores())) as pool:
        errors = [error for error in pool.map(error_of, range(len(validation))) if error]
    if errors:
        raise DataError(
            f"{len(errors)} of {len(validation)} validation images cannot be read. The first: {errors[0]}",
            f"Replace them, or take them out of the annotations. All: onelook check {validation.described_by}",
        )


def _missing(paths: Sequence[str]) -> list[str]:
    """The paths without a file. Each folder is listed once: on a network, a query for each file takes minutes."""
    listed: dict[str, set[str]] = {}
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder] and not os.path.exists(path):  # on some systems capitals do not matter
            found.append(path)
    return found


def missing_for_metric(metric: str, validation: Dataset) -> str | None:
    """The objects ("small objects") that a split lacks, so that the metric is undefined; None if it is defined.

    Where there are objects of which none counts, the reason is part of it: "objects that count (all 5 are crowds)".
    """
    areas = evaluated_areas(validation)
    if not len(areas):
        return uncounted_objects(validation).removeprefix("no ") or "objects"
    if metric[:2] not in ("AP", "AR") or metric[2:] not in SIZE_RANGES:
        return None
    what, low, high = SIZE_RANGES[metric[2:]]
    return None if ((areas >= low) & (areas <= high)).any() else what


def count_split(
    dataset: Dataset, size: tuple[int, int], name: str, counted_labels: np.ndarray | None = None
) -> SplitCounts:
    """Counts the images and objects of a split; sides are measured at the training size.

    counted_labels: labels of the classes that count, None for all.
    """
    images, boxes, labels, crowds = flat_objects(dataset)
    height, width = dataset.sizes[images].T
    _, kept = clean_boxes(boxes, height, width, dataset.beyond_image)
    counted = np.ones(len(boxes), bool) if counted_labels is None else np.isin(labels, counted_labels)
    usable = kept & ~crowds & counted
    sides = np.sqrt(object_sizes(dataset, size, counted_labels).prod(1))
    with_objects = np.bincount(images[usable], minlength=len(dataset)) > 0
    return SplitCounts(
        name,
        len(dataset),
        int((~with_objects).sum()),
        int((~dataset.labelled).sum()),
        int(counted.sum()),
        int(usable.sum()),
        int((crowds & counted).sum()),
        np.bincount(labels[usable], minlength=len(dataset.names)),
        float(np.median(sides)) if len(sides) else 0.0,
    )


def _training_warnings(dataset: Dataset, counts: SplitCounts, recipe: Recipe, labels: np.ndarray | None) -> list[str]:
    found = []
    where = f"'{dataset.described_by}'"
    if counts.usable == 0:
        return [f"{where} has no objects to train on: AP will stay 0. Run: onelook check {dataset.described_by}"]
    lost = counts.objects - counts.crowds - counts.usable
    if lost > 0.05 * counts.objects:
        found.append(
            f"{lost} of {counts.objects} boxes lie outside their images or have no area, and are left out. "
            "Do they have the unit of the format? Run: onelook check"
        )
    if counts.median_side < MIN_OBJECT_SIDE:
        found.append(
            f"Half of the objects are smaller than {counts.median_side:.1f} pixels at the training size "
            f"{recipe.input_size[1]}x{recipe.input_size[0]}: train at a larger size, or check the unit of the boxes."
        )
    found += _anchor_warnings(dataset, recipe)
    found += _outline_warnings(dataset, recipe, labels)
    trained = range(len(dataset.names)) if labels is None else labels.tolist()
    absent = [dataset.names[label] for label in trained if counts.per_class[label] == 0]
    if absent:
        found.append(f"No training object has the class {_listed(absent)}: it cannot be trained.")
    if counts.unlabelled > 0.5 * counts.images:
        found.append(
            f"{counts.unlabelled} of {counts.images} training images have no annotations and are used as "
            "background. If they show objects, annotate or remove them."
        )
    return found


def _anchor_warnings(dataset: Dataset, recipe: Recipe) -> list[str]:
    """Warns where the assigner compares sides of objects and anchors, and many objects match no anchor."""
    recall = anchor_recall(recipe, dataset)
    if recall is None or recall >= MIN_ANCHOR_RECALL:
        return []
    count = len(flat(recipe.model.anchors))  # type: ignore[attr-defined]
    return [
        f"The model's anchors fit {recall:.1%} of the objects at this size. Others may fit more of them; run: "
        f"onelook anchors {dataset.described_by} --count {count} --size {max(recipe.input_size)}"
    ]


def _outline_warnings(dataset: Dataset, recipe: Recipe, labels: np.ndarray | None) -> list[str]:
    """Warns where the augmentation pastes objects by their polygons, and the data set has none."""
    augments = (recipe.augment_at(0), recipe.augment_at(recipe.epochs - 1))
    if not any(getattr(augment, "needs_polygons", False) for augment in augments):
        return []
    _, _, found, crowds = flat_objects(dataset)
    usable = has_outline(dataset) & ~crowds
    if (usable if labels is None else usable & np.isin(found, labels)).any():
        return []
    return [
        "The augmentation pastes objects along their outlines (segmentations), of which the training set has none: "
        "nothing will be pasted. The setting from_boxes of the copy-paste pastes their boxes."
    ]


def _validation_warnings(names: Sequence[str], training: SplitCounts, validation: SplitCounts) -> list[str]:
    pairs = zip(names, training.per_class, validation.per_class)
    unseen = [name for name, trained, validated in pairs if validated and not trained]
    return [f"The validation set has objects of {_listed(unseen)}, the training set has none."] if unseen else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


@torch.no_grad()
def positives_per_object(
    model: nn.Module,
    assigner: Assigner,
    batches: Iterable[tuple[torch.Tensor, Targets]],
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> float | None:
    """The mean number of priors assigned to an object, in some batches; None where the batches have no objects.

    Below 1, some objects have no prior: they are too small for the levels, or no anchor matches them. The model's
    weights, statistics and mode do not change, and no memory of the device stays allocated.

    autocast: the precision of the model's forward pass; the assignment runs without it, as in a training step.
    """
    was_training = model.training
    model.eval()
    pairs = objects = 0
    for images, targets in batches:
        pairs += _positives(model, assigner, images, targets, autocast)
        objects += int(targets.valid.sum())
    model.train(was_training)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the micro-batches of the training have other sizes
    return pairs / objects if objects else None


def _positives(
    model: nn.Module,
    assigner: Assigner,
    images: torch.Tensor,
    targets: Targets,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
) -> int:
    """The number of positive priors of a batch; its memory is released on return."""
    with autocast():
        predictions = model(images.float())
    return int(assigner(predictions, targets).valid.sum())


def draw_batch(images: np.ndarray, targets: Targets, names: Sequence[str], max_images: int = 16) -> np.ndarray:
    """Draws a batch (B, 3, H, W), uint8 RGB, with its boxes as one image: a grid of cells.

    A cell has 480 pixels at most; images below 256 are enlarged by a whole factor, so that names do not cover them.
    """
    shown = min(len(images), max_images)
    columns = int(np.ceil(np.sqrt(shown)))
    height, width = enlarge_small_image(images[0].transpose(1, 2, 0))[0].shape[:2] if shown else images.shape[-2:]
    step = max(1, -(-max(height, width) // 480))
    rows = []
    for row in range(-(-shown // columns)):
        cells = []
        for index in range(row * columns, (row + 1) * columns):
            cell = np.full((height, width, 3), 255, np.uint8)
            if index < shown:
                cell = _drawn(images[index].transpose(1, 2, 0), targets, index, names)
            cells.append(np.pad(cell[::step, ::step], ((2, 2), (2, 2), (0, 0)), constant_values=255))
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows, 0)


def _drawn(image: np.ndarray, targets: Targets, index: int, names: Sequence[str]) -> np.ndarray:
    valid = targets.valid[index].cpu().numpy()
    boxes = targets.boxes[index].cpu().numpy()[valid].astype(np.float32)
    labels = targets.labels[index].cpu().numpy()[valid]
    enlarged, factor = enlarge_small_image(np.ascontiguousarray(image))
    return draw_detections(enlarged, boxes * factor, None, labels, [names[label] for label in labels])


def save_first_batch(path: Path, images: np.ndarray, targets: Targets, names: Sequence[str]) -> Path:
    """Draws the first batch of a training, with its boxes, into an image file."""
    return write_image(path, draw_batch(images, targets, names))
