"""The readers behind one interface: what a split is made from, its arrays, where its images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import coco
from onelook.data.cache import Files
from onelook.data.formats import class_folders, voc, voc_layout, yolo_labels
from onelook.data.formats.base import Part, Source
from onelook.data.index import Index
from onelook.data.problems import Problems
from onelook.data.progress import Progress


def files_of(source: Source, split: str) -> Files:
    """Every file that the index of this split depends on."""
    if source.format == "coco":
        annotations = coco_annotations(source.parts[split])
        return [(annotations.name, str(annotations))]
    if source.format == "classes":
        return class_folders.files_of(source, split)
    return yolo_labels.files_of(source, split) if source.format == "yolo" else voc.files_of(source, split)


def build_split(
    source: Source, split: str, problems: Problems, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the meta of the split's index."""
    if source.format == "coco":
        part = source.parts[split]
        return coco.read_split(coco_annotations(part), part.images, problems, progress)
    if source.format == "yolo":
        return yolo_labels.read_split(source, split, problems, progress)
    if source.format == "classes":
        return class_folders.read_split(source, split, problems, progress)
    return voc.read_split(source, split, problems, progress)


def image_root(source: Source, split: str, index: Index) -> Path:
    """The folder that the names of the images are relative to."""
    if source.format in ("yolo", "classes"):
        return source.root
    if source.format == "voc":
        return voc_layout.image_folder(source, split)
    part = source.parts[split]
    rows = range(0, len(index), max(1, len(index) // 7))
    return coco.image_folder(coco_annotations(part), part.images, [index.name(row) for row in rows])


def coco_annotations(part: Part) -> Path:
    """The JSON file of a COCO split."""
    if part.annotations is None:
        raise ValueError("a COCO split has an annotation file")
    return part.annotations
