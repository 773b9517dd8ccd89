"""What is looked at before the first epoch, so that a hopeless training says so before it costs a night.

An AP that stays 0 without a hint nearly always comes from the data: no labels, boxes in another unit, classes in
another order, objects that vanish at the training size. Each has a warning here.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from onelook.data.anchors import fit_of, flat
from onelook.data.dataset import Dataset, clean_boxes
from onelook.data.objects import flat_objects, judged_areas, object_sizes, outlined
from onelook.data.order import chosen_rows, class_labels
from onelook.draw import draw_detections, write_image
from onelook.errors import DataError
from onelook.types import Targets

if TYPE_CHECKING:
    from rich.console import Console

    from onelook.losses.detection_loss import Assigner
    from onelook.training.recipe import Recipe

MIN_OBJECT_SIDE = 4.0  # pixels of the network input; smaller objects are half a cell of the finest usual level
MIN_ANCHOR_RECALL = 0.98  # share of objects that anchors must fit, as published
SIZE_RANGES = {  # what the last letter of APs, ARm and the like means: square pixels of the image, both ends included
    "s": ("small objects (below 32x32 pixels)", 0.0, 32.0**2),
    "m": ("medium objects (from 32x32 to 96x96 pixels)", 32.0**2, 96.0**2),
    "l": ("large objects (above 96x96 pixels)", 96.0**2, math.inf),
}
MAX_PRINTED_CLASSES = 40  # rows of the printed table; the JSON form has all


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """One split in numbers. usable: boxes that training keeps; per_class: (C,) of those."""

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
    """What was found. warnings: sentences for people, each with what to do."""

    names: tuple[str, ...]
    splits: tuple[SplitCounts, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
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

    def show(self, console: Console) -> None:
        """Prints the counts of the splits, the classes, and every warning."""
        from rich.table import Table
        from rich.text import Text

        # Names of splits, classes and files are the user's: brackets in them are no markup.
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("")
        for split in self.splits:
            table.add_column(Text(split.split), justify="right")
        lines = [("images", "images"), ("  without objects", "background"), ("objects", "usable"), ("crowds", "crowds")]
        for label, attribute in lines:
            table.add_row(label, *(f"{getattr(split, attribute):,}" for split in self.splits))
        for index, name in list(enumerate(self.names))[:MAX_PRINTED_CLASSES]:
            per_split = (f"{int(split.per_class[index]):,}" for split in self.splits)
            table.add_row(Text(f"  {name}"), *per_split, style="dim")
        if len(self.names) > MAX_PRINTED_CLASSES:
            table.add_row(f"  ... and {len(self.names) - MAX_PRINTED_CLASSES} more classes", style="dim")
        console.print(table)
        for note in self.notes:
            console.print(Text(note), soft_wrap=True)
        for warning in self.warnings:
            console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)


def inspect_data(recipe: Recipe, training: Dataset, validation: Dataset | None, notes: Sequence[str] = ()) -> Preflight:
    """Counts the splits and warns of what would keep AP at 0. Both splits must index the same class names.

    Of the training split only what the recipe's sampling leaves is counted.
    """
    sampling = recipe.sampling
    labels = class_labels(training.names, sampling.classes)
    seen = training.view(chosen_rows(training, sampling, recipe.seed))
    splits = [count_split(seen, recipe.input_size, "training", labels)]
    warnings = _training_warnings(seen, splits[0], recipe, labels)
    if validation is not None:
        splits.append(count_split(validation, recipe.input_size, "validation"))
        if lacking := missing_for_metric(recipe.metric, validation):
            warnings.append(
                f"The validation split has no {lacking}: {recipe.metric} is undefined on it, so that no epoch can be "
                "called the best. The last weights will count as the best."
            )
        warnings += _validation_warnings(training.names, splits[0], splits[1])
    return Preflight(training.names, tuple(splits), tuple(warnings), tuple(notes))


def check_files(recipe: Recipe, training: Dataset, validation: Dataset | None) -> None:
    """DataError where an image file that the training will read does not exist; only folders are listed."""
    rows = chosen_rows(training, recipe.sampling, recipe.seed)
    for dataset, wanted in ((training, rows), (validation, None)):
        if dataset is None:
            continue
        paths = [str(dataset.path(row)) for row in (range(len(dataset)) if wanted is None else wanted.tolist())]
        missing = _missing(paths)
        if missing:
            raise DataError(
                f"{len(missing)} of {len(paths)} images of '{dataset.described_by}', split '{dataset.split}', do not "
                f"exist, such as '{missing[0]}'.",
                "Add the files, or take the images out of the annotations. All problems: onelook check "
                f"{dataset.described_by}",
            )


def _missing(paths: Sequence[str]) -> list[str]:
    """Those that name no file. A folder is listed once: asking for each of many files takes minutes on a network."""
    listed: dict[str, set[str]] = {}
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder] and not os.path.exists(path):  # it may be written with other capitals
            found.append(path)
    return found


def missing_for_metric(metric: str, validation: Dataset) -> str | None:
    """What a split has none of, so that a metric is undefined on it ("small objects"); None where it can be told."""
    areas = judged_areas(validation)
    if not len(areas):
        return "objects"
    if metric[:2] not in ("AP", "AR") or metric[2:] not in SIZE_RANGES:
        return None
    what, low, high = SIZE_RANGES[metric[2:]]
    return None if ((areas >= low) & (areas <= high)).any() else what


def count_split(dataset: Dataset, size: tuple[int, int], name: str, wanted: np.ndarray | None = None) -> SplitCounts:
    """A split in numbers, from its flat arrays; sides are measured at the training size.

    wanted: labels of the classes that count, None for all.
    """
    images, boxes, labels, crowds = flat_objects(dataset)
    _, kept = clean_boxes(boxes, *dataset.sizes[images].T)
    counted = np.ones(len(boxes), bool) if wanted is None else np.isin(labels, wanted)
    usable = kept & ~crowds & counted
    sides = np.sqrt(object_sizes(dataset, size, wanted).prod(1))
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
        return [f"{where} has no objects to learn: AP will stay 0. Run: onelook check {dataset.described_by}"]
    lost = counts.objects - counts.crowds - counts.usable
    if lost > 0.05 * counts.objects:
        found.append(
            f"{lost} of {counts.objects} boxes lie outside their images or have no area, and are not learnt. "
            "Are they in the unit that the format wants? Run: onelook check"
        )
    if counts.median_side < MIN_OBJECT_SIDE:
        found.append(
            f"Half of the objects are smaller than {counts.median_side:.1f} pixels at the training size "
            f"{recipe.input_size[1]}x{recipe.input_size[0]}: train at a larger --size, or check the unit of the boxes."
        )
    found += _anchor_warnings(dataset, recipe, labels)
    found += _outline_warnings(dataset, recipe, labels)
    learnt = range(len(dataset.names)) if labels is None else labels.tolist()
    absent = [dataset.names[label] for label in learnt if counts.per_class[label] == 0]
    if absent:
        found.append(f"No training object has the class {_listed(absent)}: it cannot be learnt.")
    if counts.unlabelled > 0.5 * counts.images:
        found.append(
            f"{counts.unlabelled} of {counts.images} training images have no annotations at all and are learnt as "
            "background. If they do show objects, annotate or remove them."
        )
    return found


def _anchor_warnings(dataset: Dataset, recipe: Recipe, labels: np.ndarray | None) -> list[str]:
    """A hint where the assigner goes by the ratio of sides, and that leaves objects without an anchor."""
    assigner = getattr(recipe.loss, "assigner", None)
    ratio = getattr(getattr(assigner, "cells", assigner), "ratio", None)
    anchors = getattr(recipe.model, "anchors", None)
    if ratio is None or anchors is None:
        return []
    recall = fit_of(flat(anchors), object_sizes(dataset, recipe.input_size, labels), ratio).recall
    if recall >= MIN_ANCHOR_RECALL:
        return []
    count = sum(len(level) for level in anchors)
    return [
        f"The model's anchors fit {recall:.1%} of the objects at this size. Others may fit more of them; run: "
        f"onelook anchors {dataset.described_by} --count {count} --size {max(recipe.input_size)}"
    ]


def _outline_warnings(dataset: Dataset, recipe: Recipe, labels: np.ndarray | None) -> list[str]:
    """A hint where objects are to be cut out along outlines that nobody drew."""
    augments = (recipe.augment_at(0), recipe.augment_at(recipe.epochs - 1))
    if not any(getattr(augment, "needs_outlines", False) for augment in augments):
        return []
    _, _, found, crowds = flat_objects(dataset)
    drawn = outlined(dataset) & ~crowds
    if (drawn if labels is None else drawn & np.isin(found, labels)).any():
        return []
    return [
        "The augmentation pastes objects along their outlines (segmentations), of which the training set has none: "
        "nothing will be pasted."
    ]


def _validation_warnings(names: Sequence[str], training: SplitCounts, validation: SplitCounts) -> list[str]:
    pairs = zip(names, training.per_class, validation.per_class)
    unseen = [name for name, learnt, judged in pairs if judged and not learnt]
    return [f"Validation judges {_listed(unseen)}, which training never shows."] if unseen else []


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
    """Priors that learn an object, on average over the objects of some batches; None where they hold no object.

    Below 1, objects exist that nothing learns: too small for the levels, or matched by no anchor. The model's weights,
    batch statistics and mode are left as they are, and no memory of an accelerator is kept.

    autocast: the precision of the model's passes; who learns what is decided without, as in a step.
    """
    was_training = model.training
    model.eval()
    pairs = objects = 0
    for images, targets in batches:
        pairs += _positives(model, assigner, images, targets, autocast)
        objects += int(targets.valid.sum())
    model.train(was_training)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the training's passes are of other sizes
    return pairs / objects if objects else None


def _positives(
    model: nn.Module,
    assigner: Assigner,
    images: torch.Tensor,
    targets: Targets,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
) -> int:
    """Of one batch; what it took is given back before the next."""
    with autocast():
        predictions = model(images.float())
    return int(assigner(predictions, targets).valid.sum())


def draw_batch(images: np.ndarray, targets: Targets, names: Sequence[str], max_images: int = 16) -> np.ndarray:
    """A grid of a batch with its boxes: (B, 3, H, W) uint8 RGB -> one picture, cells 320 pixels at most."""
    shown = min(len(images), max_images)
    columns = int(np.ceil(np.sqrt(shown)))
    height, width = images.shape[-2:]
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
    image = np.ascontiguousarray(image)
    return draw_detections(image, boxes, None, labels, [names[label] for label in labels])


def save_first_batch(path: Path, images: np.ndarray, targets: Targets, names: Sequence[str]) -> Path:
    """Draws what the network sees in its first step beside the run's other files."""
    return write_image(path, draw_batch(images, targets, names))
