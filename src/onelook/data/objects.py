"""All objects of a data set at once, from the flat arrays of its index: no image is read."""

from __future__ import annotations

import numpy as np

from onelook.data.dataset import Dataset, clean_boxes
from onelook.data.index import CROWD


def flat_objects(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of all objects, crowds included: row of the image, annotated box (left, top, width, height), label, crowd."""
    index, rows = dataset.index, dataset.rows
    rows = np.arange(len(index)) if rows is None else rows
    counts = dataset.num_objects
    images = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    objects = index.object_offsets[:-1][rows][images] + within
    labels = index.labels[objects].astype(np.int64)
    if dataset.relabel is not None:
        labels = dataset.relabel[labels]
    return images, index.boxes[objects], labels, (index.object_flags[objects] & CROWD) > 0


def shrinking(dataset: Dataset, size: tuple[int, int]) -> np.ndarray:
    """(I,) by how much each image is resized to fit into an input of `size` (height, width)."""
    height, width = dataset.sizes.clip(min=1).T
    return np.minimum(size[0] / height, size[1] / width)


def object_sizes(dataset: Dataset, size: tuple[int, int]) -> np.ndarray:
    """(M, 2) width and height of the objects that are trained on, in pixels of an input of `size`."""
    images, boxes, _, crowds = flat_objects(dataset)
    clipped, kept = clean_boxes(boxes, *dataset.sizes[images].T)
    usable = kept & ~crowds
    return (clipped[usable, 2:] - clipped[usable, :2]) * shrinking(dataset, size)[images[usable], None]
