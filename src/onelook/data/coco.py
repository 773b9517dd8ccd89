"""COCO JSON (instances format) as the arrays of an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import index as bits
from onelook.data.building import lay_out
from onelook.data.coco_file import CocoFile
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress


def read_split(
    path: Path, folders: Sequence[Path], problems: Problems, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the meta of an index for one annotation file. folders: where its images may lie."""
    file = CocoFile(path, problems).read(progress)
    names, ids, extras, notes = _classes(file)
    file.report_repeated_ids()
    rows, labels = file.references(np.array(file.images.ids, np.int64), ids)
    if file.labelled:
        file.images.flags = bytearray([bits.LABELLED]) * len(file.images)
    arrays = lay_out(file.images, file.objects, labels, rows, (rows >= 0) & (labels >= 0))
    meta = {"names": names, "category_ids": ids, "category_extras": extras, "rest": file.rest, "notes": notes}
    _fill_sizes(arrays, folders, file, progress)
    return arrays, meta


def _classes(file: CocoFile) -> tuple[list[str], list[int], list[dict[str, Any]], list[str]]:
    """Names, ids and further fields, ordered by id. A name given twice is allowed where only one of them is used."""
    categories, notes = file.sorted_categories(), []
    by_name: dict[str, list[int]] = {}
    for category_id, name, _ in categories:
        by_name.setdefault(name, []).append(category_id)
    repeated = {name: ids for name, ids in by_name.items() if len(ids) > 1}
    if repeated:
        used = set(file.objects.categories)
        for name, ids in repeated.items():
            spare = [category_id for category_id in ids if category_id not in used]
            spare = spare[: len(ids) - 1]
            if len(spare) < len(ids) - 1:
                message = f"The categories {ids} have the same name '{name}'."
                file.problems.error("duplicate-category", message, "Give each its own name.", file=file.source)
                continue
            notes.append(f"the unused category {spare} with the repeated name '{name}' is left out")
            categories = [category for category in categories if category[0] not in spare]
    return [c[1] for c in categories], [c[0] for c in categories], [c[2] for c in categories], notes


def _fill_sizes(arrays: dict[str, np.ndarray], folders: Sequence[Path], file: CocoFile, progress: Progress) -> None:
    """Reads the sizes that the annotations do not give from the headers of the images."""
    missing = np.flatnonzero((arrays["sizes"] == 0).any(axis=1))
    if not len(missing):
        return
    ends, text = arrays["name_offsets"], arrays["name_bytes"].tobytes()
    names = [text[ends[row] : ends[row + 1]].decode() for row in missing.tolist()]
    folder = image_folder(Path(file.source), folders, names)
    for row, size in zip(
        missing.tolist(), image_sizes([str(folder / name) for name in names], progress, stop=file.problems.strict)
    ):
        if isinstance(size, ImageError):
            place = {"file": file.source, "line": file.images.lines[row]}
            file.problems.error("image-unreadable", size.message, size.remedy, **place)
        else:
            arrays["sizes"][row] = size


def image_folder(path: Path, folders: Sequence[Path], names: Sequence[str]) -> Path:
    """The first of the folders that has an annotation file's images, judged by a few of their names.

    Raises `DataError` naming the places where none is. Without names, the first folder that exists.
    """
    there = [folder for folder in folders if folder.is_dir()]
    if not names:
        return there[0] if there else path.parent
    sample = [names[(len(names) - 1) * step // 7] for step in range(8)]
    found = [sum((folder / name).is_file() for name in sample) for folder in there]
    if not found or max(found) == 0:
        tried = ", ".join(f"'{folder}'" for folder in folders)
        raise DataError(
            f"The images of '{path}' were not found: '{sample[0]}' is in none of {tried}.",
            "Put the images in a folder named after the split, beside the annotations or one level up.",
        )
    return there[found.index(max(found))]
