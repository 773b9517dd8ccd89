"""The three readers behind one interface: what a split is made from, its arrays, where its images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import coco
from onelook.data.cache import Files
from onelook.data.index import Index
from onelook.data.layout import Source
from onelook.data.problems import Problems
from onelook.data.progress import Progress


def files_of(source: Source, split: str) -> Files:
    """Every file that the index of this split depends on."""
    part = source.parts[split]
    assert part.annotations is not None
    return [(part.annotations.name, str(part.annotations))]


def build_split(
    source: Source, split: str, problems: Problems, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the meta of the split's index."""
    part = source.parts[split]
    assert part.annotations is not None
    return coco.read_split(part.annotations, part.images, problems, progress)


def image_root(source: Source, split: str, index: Index) -> Path:
    """The folder that the names of the images are relative to."""
    part = source.parts[split]
    assert part.annotations is not None
    rows = range(0, len(index), max(1, len(index) // 7))
    return coco.image_folder(part.annotations, part.images, [index.name(row) for row in rows])
