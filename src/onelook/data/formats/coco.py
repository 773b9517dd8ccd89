"""COCO JSON: one annotation file a split, with images, categories and objects under ids of their own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from onelook.data import argoverse
from onelook.data.building import lay_out, mark_measured
from onelook.data.coco_file import CocoFile
from onelook.data.description import is_yaml, read_description
from onelook.data.formats.base import (
    Arrays,
    Destination,
    Format,
    Losses,
    Part,
    ReadSplit,
    Source,
    split_folder,
    unit_unknown,
)
from onelook.data.index import CROWD, DIFFICULT, LABELLED, OCCLUDED, TRUNCATED, Index
from onelook.data.paths import images_below, other_spelling
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.data.split import Dataset
from onelook.data.split_names import named_splits, split_word
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress

_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")
_ROBOFLOW = "_annotations.coco.json"
_PEEK = 1 << 16  # bytes
_SLACK = 1.0  # pixels


def find_file(path: Path) -> Source | None:
    """The data set of one annotation file, or of a YAML file whose splits are annotation files."""
    if is_yaml(path):
        description = read_description(path)
        if not description.is_json:
            return None
        parts = {split: _part(places[0], _root(places[0])) for split, places in description.places.items()}
        return Source(COCO, description.root, path, parts)
    if path.suffix.lower() != ".json":
        return None
    name = path.parent.name if path.name == _ROBOFLOW and split_word(path.parent.name) else path.stem
    root = _root(path)
    return Source(COCO, root, path, named_splits({name: _part(path, root)}))


def _root(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _part(path: Path, root: Path) -> Part:
    return Part(path, _image_folders(path, root))


def find(root: Path) -> Source | None:
    """COCO in a folder: `annotations/*.json`, else `{split}/*.json`, else `*.json`; None where there is none."""
    if not (files := _annotation_files(root)):
        return None
    parts = {}
    for path in files:
        inside = path.parent not in (root, root / "annotations")
        # Here `instances_` is the format's word, whatever split follows: kept, a conversion would write it twice.
        split = path.parent.name if inside else path.stem.removeprefix("instances_") or path.stem
        parts[split] = _part(path, root)
    if len(parts) < len(files):
        repeated = ", ".join(f"'{path.relative_to(root)}'" for path in files)
        raise DataError(f"'{root}' has several annotation files for one split: {repeated}.", "Give one of the files.")
    return Source(COCO, root, root, named_splits(parts))


def _annotation_files(root: Path) -> list[Path]:
    for pattern in ("annotations/*.json", f"*/{_ROBOFLOW}", _ROBOFLOW, "*/*.json", "*.json"):
        files = [path for path in sorted(root.glob(pattern)) if path.is_file() and not path.name.startswith(".")]
        instances = [path for path in files if path.name.startswith("instances_")]
        if instances:
            return instances  # a damaged one is to be named, not lost
        files = [path for path in files if not path.name.startswith(_OTHER_TASKS)] or files
        if pattern == "annotations/*.json" and files:
            return [path for path in files if _looks_like_coco(path)] or files
        files = [path for path in files if _looks_like_coco(path) or path.name == _ROBOFLOW]
        if files:
            return files
    return []


def _looks_like_coco(path: Path) -> bool:
    """Whether the first bytes of a file are those of a JSON object with one of the keys of the format."""
    try:
        with open(path, "rb") as file:
            start = file.read(_PEEK).replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    return bool(re.match(rb'(\xff\xfe|\xfe\xff)?\s*\{\s*"', start)) and bool(
        re.search(rb'"(images|annotations|categories|licenses)"\s*:', start)
    )


def _image_folders(path: Path, root: Path) -> tuple[Path, ...]:
    """Where the images may be, most likely first."""
    word = split_word(path.stem) or split_word(path.parent.name) or ""
    stem = re.sub(r"^instances_", "", path.stem)
    names = [
        name for name in dict.fromkeys((stem, word, f"{word}2017", f"{word}2014", "valid" * (word == "val"))) if name
    ]
    folders = [root / name for name in names]
    folders += [root / "images" / name for name in names] + [root / name / "images" for name in names]
    folders += [path.parent, path.parent / "images", path.parent / "data", root / "images", root / "data"]
    folders += [root / "JPEGImages", *argoverse.image_folders(root), root]
    return tuple(dict.fromkeys(folders))


def _files_of(source: Source, split: str) -> list[tuple[str, str]]:
    path = source.annotations_of(split)
    return [(path.name, str(path))]


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    return read_annotations(source.annotations_of(split), source.parts[split].images, problems, progress)


def read_annotations(path: Path, folders: Sequence[Path], problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of an index for one annotation file. folders: where its images may be."""
    file = CocoFile(path, problems).read(progress)
    names, ids, extras, notes = _classes(file)
    file.report_repeated_ids()
    rows, labels = file.references(np.array(file.images.ids, np.int64), ids)
    if file.labelled:
        file.images.flags = bytearray([LABELLED]) * len(file.images)
    arrays = lay_out(file.images, file.objects, labels, rows, (rows >= 0) & (labels >= 0))
    meta = {"names": names, "category_ids": ids, "category_extras": extras, "rest": file.rest, "notes": notes}
    _fill_sizes(arrays, folders, file, progress)
    return arrays, meta


def _classes(file: CocoFile) -> tuple[list[str], list[int], list[dict[str, Any]], list[str]]:
    """Names, ids and further fields, ordered by id. A name given twice is allowed where only one of them is used.

    A category without objects that is the `supercategory` of all others groups them, as in Roboflow's exports.
    """
    categories, notes = file.sorted_categories(), []
    by_name: dict[str, list[int]] = {}
    for category_id, name, _ in categories:
        by_name.setdefault(name, []).append(category_id)
    repeated = {name: ids for name, ids in by_name.items() if len(ids) > 1}
    used = set(file.objects.categories) if repeated or any("supercategory" in c[2] for c in categories) else set()
    if repeated:
        for name, ids in repeated.items():
            spare = [category_id for category_id in ids if category_id not in used]
            spare = spare[: len(ids) - 1]
            if len(spare) < len(ids) - 1:
                message = f"The categories {ids} have the same name '{name}'."
                file.problems.error("duplicate-category", message, "Give each its own name.", file=file.source)
                continue
            notes.append(f"the unused category {spare} with the repeated name '{name}' is left out")
            categories = [category for category in categories if category[0] not in spare]
    for category_id, name, _ in categories if len(categories) > 1 else ():
        others = [fields.get("supercategory") for other, _, fields in categories if other != category_id]
        if category_id not in used and set(others) == {name}:
            notes.append(
                f"the category '{name}' has no objects and is the supercategory of all others, so it is no class; "
                "to make it one, take it out of their 'supercategory'"
            )
            categories = [category for category in categories if category[0] != category_id]
            break
    return [c[1] for c in categories], [c[0] for c in categories], [c[2] for c in categories], notes


def _fill_sizes(arrays: dict[str, np.ndarray], folders: Sequence[Path], file: CocoFile, progress: Progress) -> None:
    """Reads the sizes that the annotations do not give from the headers of the images."""
    missing = np.flatnonzero((arrays["sizes"] == 0).any(axis=1))
    if not len(missing):
        return
    ends, text = arrays["name_offsets"], arrays["name_bytes"].tobytes()
    names = [text[ends[row] : ends[row + 1]].decode() for row in missing.tolist()]
    folder = _image_folder(Path(file.source), folders, names)
    for row, size in zip(
        missing.tolist(), image_sizes([str(folder / name) for name in names], progress, stop=file.problems.strict)
    ):
        if isinstance(size, ImageError):
            place = {"file": file.source, "line": file.images.lines[row]}
            file.problems.error("image-unreadable", size.message, size.remedy, **place)
        else:
            arrays["sizes"][row] = size
    mark_measured(arrays, missing)


def _image_folder(path: Path, folders: Sequence[Path], names: Sequence[str]) -> Path:
    """The first of the folders that has an annotation file's images, judged by a few of their names.

    Raises `DataError` naming the places where none is. Without names, the first folder that exists.
    """
    there = (folder for folder in folders if os.path.isdir(folder))
    if not names:
        return next(there, path.parent)
    sample = [names[(len(names) - 1) * step // 7] for step in range(8)]
    found: dict[Path, int] = {}
    for folder in there:
        found[folder] = sum(os.path.isfile(os.path.join(folder, name)) for name in sample)
        if found[folder] == len(sample):
            return folder  # none after it can have more
    if not any(found.values()):
        tried = ", ".join(f"'{folder}'" for folder in folders)
        raise DataError(
            f"The images of '{path}' were not found: '{sample[0]}' is in none of {tried}."
            + next((text for folder in found if (text := other_spelling(folder / sample[0]))), ""),
            "Put the images in a folder named after the split, beside the annotations or one level up.",
        )
    return max(found, key=lambda folder: found[folder])  # the first of equal ones


def _image_root(source: Source, split: str, index: Index) -> Path:
    rows = range(0, len(index), max(1, len(index) // 7))
    names = [index.name(row) for row in rows]
    return _image_folder(source.annotations_of(split), source.parts[split].images, names)


class CocoWriter:
    """Writes `annotations/instances_{split}.json` beside `{split}/`: it can hold everything that the readers read."""

    one_file_an_image = False

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under the split's folder."""
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the annotation file of one split, entry by entry."""
        (out / "annotations").mkdir(exist_ok=True)
        losses.add(
            "the difference between unlabelled images and images without objects",
            int((~dataset.labelled).sum()) if dataset.labelled.any() else 0,
        )
        if dataset.ignores_difficult:
            losses.add(
                "that evaluation leaves difficult objects out (they are marked, but count in COCO's protocol)",
                int(((dataset.index.object_flags & DIFFICULT) > 0).sum()),
            )
        rest = dataset.index.meta.get("rest", {})
        with open(out / "annotations" / f"instances_{split_folder(split)}.json", "w", encoding="utf-8") as file:
            file.write("{")
            for key, value in rest.items():
                file.write(f"{json.dumps(key)}: {json.dumps(value)},\n")
            _write_list(file, "images", (image_entry(dataset, i, place.name) for i, place in enumerate(places)))
            file.write(",\n")
            if dataset.labelled.any() or not len(dataset):
                entries = (entry for i in range(len(dataset)) for entry in object_entries(dataset, i))
                _write_list(file, "annotations", entries)
                file.write(",\n")
            _write_list(file, "categories", category_entries(dataset))
            file.write("}\n")

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """The splits share nothing."""


def _write_list(file: TextIO, key: str, entries: Iterator[dict[str, Any]]) -> None:
    file.write(f'"{key}": [')
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry))
    file.write("]")


def image_entry(dataset: Dataset, i: int, name: str) -> dict[str, Any]:
    """The entry of an image in `images`. name: its `file_name`."""
    row = dataset.row(i)
    height, width = dataset.index.sizes[row].tolist()
    extra = dataset.index.extra("image", row)
    return {"id": int(dataset.index.image_ids[row]), "file_name": name, "height": height, "width": width, **extra}


def object_entries(dataset: Dataset, i: int) -> Iterator[dict[str, Any]]:
    """The entries of an image's objects in `annotations`."""
    index = dataset.index
    image_id, labels, span = int(index.image_ids[dataset.row(i)]), dataset.labels(i).tolist(), dataset.span(i)
    for thing, label in zip(range(span.start, span.stop), labels):
        flags = int(index.object_flags[thing])
        entry = {
            "id": int(index.annotation_ids[thing]),
            "image_id": image_id,
            "category_id": dataset.category_ids[label],
            "bbox": index.boxes[thing].tolist(),
            "area": float(index.areas[thing]),
            "iscrowd": int(flags & CROWD > 0),
        }
        rings = [ring.ravel().tolist() for ring in index.rings(thing)]
        if rings:
            entry["segmentation"] = rings
        if flags & DIFFICULT:
            entry |= {"difficult": 1, "ignore": 1}
        if flags & TRUNCATED:
            entry["truncated"] = 1
        if flags & OCCLUDED:
            entry["occluded"] = 1
        yield entry | index.extra("object", thing)


def category_entries(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The entries of `categories`."""
    meta = dataset.index.meta
    extras = dict(zip(meta["names"], meta.get("category_extras", ())))
    for number, name in zip(dataset.category_ids, dataset.names):
        yield {"id": number, "name": name, **extras.get(name, {})}


def _check(source: Source, read: Sequence[ReadSplit], problems: Problems) -> None:
    """Images that no annotation names."""
    named: dict[Path, set[str]] = {}
    for part in read:
        named.setdefault(part.root, set()).update(map(part.index.name, range(len(part.index))))
    for folder, names in named.items():
        for name in images_below(folder) if folder != source.root else ():
            if name not in names:
                message = "No annotation file names this image, so it is not used."
                place = {"file": f"{folder}/{name}"}
                problems.warning("image-not-listed", message, "Annotate it, or delete it.", **place)


def _wrong_unit(part: ReadSplit, known: np.ndarray) -> tuple[str, str]:
    rows = np.repeat(np.arange(len(part.index)), np.diff(part.index.object_offsets))
    height, width = part.index.sizes[rows].T
    x1, y1, x2, y2 = part.index.boxes.T
    corners = (x2 > x1) & (y2 > y1) & (x2 <= width + _SLACK) & (y2 <= height + _SLACK)
    if corners[known].mean() > 0.9:
        remedy = "COCO boxes are [x, y, width, height]; subtract x and y from the last two numbers."
        return ", but fit as [x1, y1, x2, y2]", remedy
    return unit_unknown(part, known)


COCO = Format(
    name="coco",
    title="COCO JSON",
    layout="annotations/instances_{split}.json beside {split}/, or {split}/_annotations.coco.json",
    find=find,
    find_file=find_file,
    files_of=_files_of,
    read=_read,
    image_root=_image_root,
    annotation_file=lambda source, split, path, name: str(source.annotations_of(split)),
    write=CocoWriter,
    check=_check,
    wrong_unit=_wrong_unit,
    has_ids=True,
)
