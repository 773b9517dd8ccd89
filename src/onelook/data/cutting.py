"""Cuts the objects of a data set to their images, so that every format can hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onelook.data.arrays import take_objects
from onelook.data.boxes import clean_boxes, cut_outline, reach_beyond
from onelook.data.building import GATHERED_AT_ONCE, gather_spans, lay_out_rings
from onelook.data.formats.base import LEFT_OUT, Losses
from onelook.data.index import LAZY, SCHEMA, Index, index_in_memory
from onelook.data.split import Dataset


def cut_to_images(dataset: Dataset, losses: Losses) -> Dataset:
    """The same data set with boxes and outlines cut to their images, by the rule of `clean_boxes`; it has all rows.

    Boxes of which nothing is left are left out. What changes is counted; where nothing does, the data set is the same.
    """
    index = dataset.index
    images = np.repeat(np.arange(len(index)), np.diff(index.object_offsets))
    height, width = index.sizes[images].T
    corners, kept = clean_boxes(index.boxes, height, width)
    beyond = reach_beyond(index.boxes, height, width, slack=0.0)
    outlined = _outlines_beyond(index, height, width)
    if kept.all() and not (beyond | outlined).any():
        return dataset
    empty = (index.boxes[:, 2:] <= 0).any(axis=1)
    losses.add(f"boxes without area {LEFT_OUT}", int(empty.sum()))
    losses.add(f"boxes wholly outside of their images {LEFT_OUT}", int((~kept & ~empty).sum()))
    losses.add("parts of boxes beyond their images (cut off)", int((beyond & kept).sum()))
    losses.add("parts of outlines beyond their images (cut off)", int((outlined & kept).sum()))
    sides = corners[:, 2:] - corners[:, :2]
    arrays = {name: index.lazy(name) if name in LAZY else getattr(index, name) for name in SCHEMA}
    arrays["boxes"] = np.where(beyond[:, None], np.concatenate((corners[:, :2], sides), axis=1), index.boxes)
    arrays["areas"] = np.where(beyond, np.minimum(index.areas, np.maximum(sides, 0).prod(axis=1)), index.areas)
    arrays = take_objects(arrays, kept)
    if len(arrays["ring_offsets"]):
        arrays |= lay_out_rings(
            _cut_rings(index, row, int(height[row]), int(width[row])) if outlined[row] else index.rings(row)
            for row in np.flatnonzero(kept).tolist()
        )
    return replace(dataset, index=index_in_memory(arrays, index.meta))


def _outlines_beyond(index: Index, height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """(M,) bool: whether a point of an object's outlines lies outside of its image."""
    rings, spans = index.lazy("ring_offsets"), index.lazy("ring_spans")
    beyond = np.zeros(len(index.labels), bool)
    if not len(rings):
        return beyond
    owners = np.repeat(np.arange(len(beyond)), np.diff(rings))
    for first in range(0, len(spans), GATHERED_AT_ONCE):  # all points at once may not fit into memory
        part = slice(first, first + GATHERED_AT_ONCE)
        ends, points = gather_spans(spans[part], index.lazy("points"))
        objects = np.repeat(owners[part], np.diff(ends))
        outside = (points < 0).any(axis=1) | (points[:, 0] > width[objects]) | (points[:, 1] > height[objects])
        beyond[objects[outside]] = True
    return beyond


def _cut_rings(index: Index, row: int, height: int, width: int) -> Iterator[np.ndarray]:
    """The outlines of an object, cut to its image; none of fewer than three points."""
    cut = (cut_outline(ring, height, width) for ring in index.rings(row))
    return (ring for ring in cut if len(ring) > 2)
