"""Evaluates a model on a data set: decode, frame, forward pass, postprocess, collect; then the COCO protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from onelook.augment.letterbox import Resize
from onelook.errors import DataError, UsageError
from onelook.evaluation.coco import Evaluation, score
from onelook.evaluation.detected import detected_batches, detected_in_tiles
from onelook.evaluation.rectangular import Group, Rectangular, square_groups
from onelook.evaluation.shards import gather, shard
from onelook.evaluation.tables import LARGEST, GroundTruth, Results
from onelook.ops.nms import Postprocess
from onelook.predict.runtime import Runtime
from onelook.predict.tiles import Tiles


class LabelledImages(Protocol):
    """The data set of an evaluation: `data.Dataset` is one."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def category_ids(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    @property
    def image_ids(self) -> np.ndarray: ...

    @property
    def sizes(self) -> np.ndarray: ...  # (I, 2) height and width

    def image(self, row: int, /) -> np.ndarray: ...

    def coco_ground_truth(self) -> dict[str, Any]: ...


def evaluate(
    model: Runtime,
    dataset: LabelledImages,
    postprocess: Postprocess,
    *,
    batch: int = 8,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    rectangular: Rectangular | None = None,
    tiles: Tiles | None = None,
) -> Evaluation:
    """Computes the COCO metrics of a model on a data set.

    postprocess: which rows are detections, and whether their boxes are clipped (`ops.nms.Nms`, `TopK`).  workers:
    decoding threads.  progress: called with the number of images done since the last call.  rectangular: batches of
    like aspect ratio, in inputs no larger than they need, where the model takes any; None is the model's own size.
    tiles: how large images are cut; None leaves them whole.

    Classes are matched by name; a model without names by number. When torch.distributed is initialised, each process
    does every n-th image (or rectangle of them) and all get the same Evaluation, equal to that of one process;
    `seconds` are this process's. Raises DataError when model and data have no class in common, ImageError for an image
    that cannot be decoded, UsageError for rectangles and a model that cannot take them.
    """
    begin = perf_counter()
    truth = GroundTruth.from_coco(dataset.coco_ground_truth())
    labels, notes = match_classes(model.class_names, dataset, truth)
    image_rows = truth.rows_of_images(np.asarray(dataset.image_ids))
    first, step = shard()
    rows = range(first, len(dataset), step)
    groups, frame = square_groups(rows, model.size, batch), model.frame
    if rectangular is not None:
        groups, frame = _rectangles(model, dataset, batch, rectangular)
        groups = groups[first::step]
    found, seconds = _Collector(labels), {"model": 0.0, "decoding": 0.0}
    if tiles is None:
        batches = detected_batches(model, dataset, postprocess, groups, frame, workers=workers, seconds=seconds)
    else:
        batches = detected_in_tiles(model, dataset, postprocess, rows, tiles, batch=batch, seconds=seconds)
    for images in batches:
        for row, (boxes, scores, classes) in images:
            found.add(int(image_rows[row]), boxes, scores, classes)
        if progress is not None:
            progress(len(images))
    end = perf_counter()
    results, lost = found.finish()
    results = gather(results)
    if lost:
        notes = (*notes, f"{lost} detections were left out: their boxes or scores are no finite numbers.")
    evaluation = score(truth, results, notes=notes)
    evaluation.seconds.update(waiting=end - begin - seconds["model"], score=perf_counter() - end, **seconds)
    return evaluation


def _rectangles(
    model: Runtime, dataset: LabelledImages, batch: int, rectangular: Rectangular
) -> tuple[list[Group], Resize]:
    stride = getattr(model, "stride", None)
    if stride is None:
        raise UsageError(
            "An exported file takes images of one size only, not of the rectangle they need.",
            "Evaluate the weights that it was made of, or leave the rectangles away.",
        )
    longest = max(model.size)
    return rectangular.groups(dataset.sizes, longest, stride, batch), rectangular.frame(model.frame, longest)


def match_classes(
    names: Sequence[str], dataset: LabelledImages, truth: GroundTruth
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Maps model labels to labels of the ground truth, -1 for a class that the data set lacks; and returns messages.

    A model without class names is taken to have the data set's, in its order. Raises DataError when no name agrees.
    """
    by_name = {name: truth.category_ids.index(key) for name, key in zip(dataset.names, dataset.category_ids)}
    if not names:
        own = [truth.category_ids.index(key) for key in dataset.category_ids]
        return np.array(own, np.int64), (
            "The model has no class names: its classes are taken in the data set's order.",
        )
    labels = np.array([by_name.get(name, -1) for name in names], np.int64)
    if (labels < 0).all():
        raise DataError(
            f"The model and the data set have no class in common: {_listed(names)} and {_listed(dataset.names)}.",
            "Evaluate on a data set with the model's classes, or rename the classes of one of them.",
        )
    unknown = [name for name in dataset.names if name not in set(names)]
    surplus = [name for name, label in zip(names, labels.tolist()) if label < 0]
    notes = []
    if unknown:
        notes.append(f"The model does not know {len(unknown)} of the data set's classes (AP 0): {_listed(unknown)}.")
    if surplus:
        notes.append(
            f"Detections of {len(surplus)} classes that the data set does not have are left out: {_listed(surplus)}."
        )
    return labels, tuple(notes)


class _Collector:
    """Collects detections image by image, a few arrays each, and joins them at the end."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, image: int, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> None:
        if len(classes) and int(classes.max()) >= len(self.labels):
            raise DataError(
                f"The model detects class number {int(classes.max())}, but there are {len(self.labels)} classes.",
                "The classes of the model and of the data set differ; give the model's class names.",
            )
        self.parts.append((np.full(len(scores), image, np.int64), boxes, scores, self.labels[classes]))

    def finish(self) -> tuple[Results, int]:
        """Returns all finite detections of known classes, and the number of those that are not finite."""
        if not self.parts:
            return Results.empty(), 0
        images, boxes, scores, labels = (np.concatenate(column) for column in zip(*self.parts))
        boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
        finite = (np.abs(boxes) <= LARGEST).all(1) & np.isfinite(scores)  # NaN is not <= anything
        known = labels >= 0
        kept = finite & known
        boxes = boxes[kept]
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        results = Results(images[kept], labels[kept], boxes, scores[kept])
        return Results.join([results]), int((known & ~finite).sum())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"[{shown}, ... {len(names) - 8} more]" if len(names) > 8 else f"[{shown}]"
