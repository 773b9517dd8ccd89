"""Arrays of all objects of a data set, taken from its index without reading an image."""

from __future__ import annotations

import numpy as np

from onelook.data.boxes import clean_boxes, reach_beyond
from onelook.data.index import CROWD, DIFFICULT
from onelook.data.split import Dataset, judged_boxes

MOST_DETECTIONS = 100  # of a class in an image, that COCO's protocol counts


def flat_objects(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row of the image, annotated box (left, top, width, height), label and crowd mark of all objects, crowds too."""
    index, (images, objects) = dataset.index, _places(dataset)
    labels = index.labels[objects].astype(np.int64)
    if dataset.relabel is not None:
        labels = dataset.relabel[labels]
    return images, index.boxes[objects], labels, (index.object_flags[objects] & CROWD) > 0


def evaluated_areas(dataset: Dataset) -> np.ndarray:
    """(M,) annotated areas in square pixels of the objects that an evaluation counts, not those it ignores."""
    index, (images, objects) = dataset.index, _places(dataset)
    _, areas, kept = judged_boxes(index.boxes[objects], index.areas[objects], *dataset.sizes[images].T)
    return areas[kept & ((index.object_flags[objects] & dataset.ignored_flags) == 0)]


def evaluation_notes(dataset: Dataset) -> tuple[str, ...]:
    """What an evaluation on this data set does that a tool which reads only the annotations does not, or may not."""
    images, objects = _places(dataset)
    boxes, sizes = dataset.index.boxes[objects], dataset.sizes[images]
    _, kept = clean_boxes(boxes, *sizes.T)
    beyond = int((kept & reach_beyond(boxes, *sizes.T)).sum())
    difficult = int(((dataset.index.object_flags[objects] & DIFFICULT) > 0).sum())
    notes = [*_dense_note(dataset)]
    if beyond:
        notes.append(
            f"{beyond} annotated boxes reach beyond their images: compared is the part inside, as it is trained on. "
            "pycocotools and `onelook score` compare with the boxes as they are written."
        )
    if not kept.all():
        notes.append(
            f"{int((~kept).sum())} annotated boxes lie outside of their images or have no area: they are left out, as "
            "in training. pycocotools and `onelook score` count them as missed."
        )
    if difficult:
        rule = (
            "neither hit nor miss, as in Pascal VOC" if dataset.ignores_difficult else "like all others, as pycocotools"
        )
        notes.append(f"{difficult} objects are marked difficult; they count {rule}.")
    return tuple(notes)


def _dense_note(dataset: Dataset) -> tuple[str, ...]:
    """A note on images with more objects of a class than the protocol counts detections; () without any."""
    images, objects = _places(dataset)
    counted = (dataset.index.object_flags[objects] & dataset.ignored_flags) == 0
    _, _, labels, _ = flat_objects(dataset)
    pairs = images[counted] * max(len(dataset.names), 1) + labels[counted]
    classes, counts = np.unique(pairs, return_counts=True)
    dense = counts > MOST_DETECTIONS
    if not dense.any():
        return ()
    number = len(np.unique(classes[dense] // max(len(dataset.names), 1)))
    which = f"{number} images have" if number > 1 else "1 image has"
    return (
        f"{which} more than {MOST_DETECTIONS} objects of a class, up to {int(np.max(counts))}: COCO's protocol counts "
        f"the {MOST_DETECTIONS} best detections of a class in an image, so that AP and AR cannot reach 1 there.",
    )


def has_outline(dataset: Dataset) -> np.ndarray:
    """(M,) bool, for all objects, crowds too: whether an outline is annotated."""
    _, objects = _places(dataset)
    rings = dataset.index.lazy("ring_offsets")
    return rings[objects + 1] > rings[objects] if len(rings) else np.zeros(len(objects), bool)


def _places(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The row of the image, and the row in the arrays of the index, of every object."""
    index, rows = dataset.index, dataset.rows
    rows = np.arange(len(index)) if rows is None else rows
    counts = dataset.num_objects
    images = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    return images, index.object_offsets[:-1][rows][images] + within


def resize_factors(dataset: Dataset, size: tuple[int, int]) -> np.ndarray:
    """(I,) factors by which images are resized to fit into an input of `size` (height, width)."""
    height, width = dataset.sizes.clip(min=1).T
    return np.minimum(size[0] / height, size[1] / width)


def object_sizes(
    dataset: Dataset, size: tuple[int, int], labels: np.ndarray | None = None, factors: np.ndarray | None = None
) -> np.ndarray:
    """(M, 2) width and height of the objects that are trained on, in pixels of an input of `size`.

    labels: the classes that are trained on, None for all.  factors: (I,) further factors of the images, None for 1.
    """
    images, boxes, found, crowds = flat_objects(dataset)
    height, width = dataset.sizes[images].T
    clipped, kept = clean_boxes(boxes, height, width, dataset.beyond_image)
    usable = kept & ~crowds
    if labels is not None:
        usable &= np.isin(found, labels)
    scales = resize_factors(dataset, size) if factors is None else resize_factors(dataset, size) * factors
    return (clipped[usable, 2:] - clipped[usable, :2]) * scales[images[usable], None]
