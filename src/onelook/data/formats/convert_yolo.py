"""Writes YOLO text labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onelook.config import write_yaml
from onelook.data.convert import Losses, Place, named, num_mask_areas
from onelook.data.dataset import Dataset

SAME = 0.011  # pixels between a box and its outline's bounds: COCO rounds boxes to 0.01


class YoloWriter:
    """`data.yaml`, `images/{split}`, `labels/{split}`.

    An image whose every object has one outline that spans its box gets rows of outlines, any other rows of boxes:
    readers of the field take a file with one outline for a file of outlines.
    """

    def __init__(self) -> None:
        self._splits: list[str] = []

    def place(self, split: str, name: str) -> Place:
        """Images keep their names."""
        return Place(f"images/{named(split)}", name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Place], losses: Losses) -> None:
        """Writes the label files of one split; none for an image nobody has labelled."""
        self._splits.append(named(split))
        _count_losses(dataset, losses)
        labelled, labels = dataset.labelled, out / "labels" / named(split)
        labels.mkdir(parents=True, exist_ok=True)
        for i, place in enumerate(places):
            path = (labels / place.name).with_suffix(".txt")
            if labelled[i]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{row}\n" for row in _rows(dataset, i, losses)), encoding="utf-8")

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes `data.yaml`. The splits train and val are required by readers of the field, the others free."""
        splits = {split: f"images/{split}" for split in self._splits}
        write_yaml(out / "data.yaml", {**splits, "names": list(names)})


def _rows(dataset: Dataset, i: int, losses: Losses) -> list[str]:
    span = dataset.span(i)
    kept = np.flatnonzero(~dataset.crowd(i))
    boxes, labels = dataset.index.boxes[span][kept], dataset.labels(i)[kept]
    scale = dataset.sizes[i][::-1].astype(np.float64)  # width, height
    rings = [dataset.index.rings(span.start + thing) for thing in kept.tolist()]
    if any(rings):
        if all(len(one) == 1 and _spans(one[0], box) for one, box in zip(rings, boxes)):
            return [_row(label, (one[0] / scale).ravel()) for label, one in zip(labels.tolist(), rings)]
        losses.add("outlines of several parts, or beside objects without one (boxes are kept)", sum(map(bool, rings)))
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / scale
    fractions = np.concatenate([centres, boxes[:, 2:] / scale], axis=1)
    return [_row(label, row) for label, row in zip(labels.tolist(), fractions)]


def _spans(ring: np.ndarray, box: np.ndarray) -> bool:
    """Whether an outline has at least three points, and its bounds are the box."""
    start, stop = ring.min(axis=0), ring.max(axis=0)
    return len(ring) > 2 and bool(np.abs(np.concatenate([start, stop - start]) - box).max() <= SAME)


def _row(label: int, values: np.ndarray) -> str:
    return " ".join([str(label), *(f"{value:.12g}" for value in values.tolist())])


def _count_losses(dataset: Dataset, losses: Losses) -> None:
    crowds = sum(int(dataset.crowd(i).sum()) for i in range(len(dataset)))
    losses.add("crowd boxes (left out)", crowds)
    losses.add("difficult marks (boxes are kept)", sum(int(dataset.difficult(i).sum()) for i in range(len(dataset))))
    losses.add("areas of masks", num_mask_areas(dataset))
    if dataset.format == "coco":
        losses.add("image and annotation ids (images are numbered in the order of their names)", len(dataset))
        if dataset.category_ids != tuple(range(len(dataset.names))):
            losses.add("category ids (classes are numbered from 0)", len(dataset.names))
