"""YOLO text: one label file an image, one row an object, in fractions of the image's size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onelook.config import write_yaml
from onelook.data.class_names import CLASS_LIMIT, first_names, read_names, unique_names
from onelook.data.description import is_yaml, read_description
from onelook.data.formats.base import (
    LEFT_OUT,
    Destination,
    Format,
    Losses,
    Part,
    ReadSplit,
    Source,
    num_mask_areas,
    spans_box,
    split_folder,
)
from onelook.data.formats.yolo_labels import LABEL_LIMIT, files_of, label_path, list_images, read_split
from onelook.data.index import Index
from onelook.data.paths import entries_ending, has_images, is_image, read_text, walk_files
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE, named_splits, split_word
from onelook.errors import DataError

_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "names.txt", "labels/classes.txt", "predefined_classes.txt")
_LOOKED_AT = 16  # label files that tell whether a folder holds labels


def find_file(path: Path) -> Source | None:
    """The data set that a YAML file describes; None for other files, and where its splits are JSON files."""
    if not is_yaml(path):
        return None
    description = read_description(path)
    if description.is_json:
        return None
    parts = {split: Part(images=places) for split, places in description.places.items()}
    content = description.content
    values = _keypoint_values(content.get("kpt_shape"), path)
    names = _names(content, path)
    notes = tuple(_unused(path, other) for other in _other_lists(path, description.root, names))
    return Source(YOLO, description.root, path, parts, names, values, notes=notes)


def _other_lists(used: Path, root: Path, names: tuple[str, ...] | None) -> list[Path]:
    """The lists of classes beside the one used that name other classes, or the same in another order."""
    found: list[Path] = []
    folders = dict.fromkeys((used.parent, root)) if names is not None else ()
    there = [folder / name for folder in folders for name in _NAME_FILES if os.path.isfile(f"{folder}/{name}")]
    for place in dict.fromkeys(there):
        if place == used:
            continue
        try:
            is_other = read_names(place) != names
        except DataError:  # it is not used
            continue
        if is_other:
            found.append(place)
    return found


def _unused(used: Path, other: Path) -> str:
    return f"the classes are those of '{used}'; the list '{other}' differs and is not used"


def _names(content: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    names, count = content.get("names"), content.get("nc")
    if count is not None and (type(count) is not int or not 0 < count <= CLASS_LIMIT):
        raise DataError(f"'{path}': 'nc' must be the number of classes, not {str(count)[:60]!r}.", "Correct it.")
    if isinstance(names, dict):
        if names and all(isinstance(key, str) and key.isdecimal() for key in names):
            keys = ", ".join(f"'{key}'" for key in list(names)[:3])
            raise DataError(
                f"'{path}': the keys of 'names' are text ({keys}), not numbers.",
                "Take the quotes away: 0: first, 1: second.",
            )
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(
                f"'{path}': the keys of 'names' must be 0 to {len(names) - 1}.", "Number the classes from 0."
            )
        names = [names[label] for label in range(len(names))]
    if names is None:
        return None if count is None else tuple(str(label) for label in range(count))
    if not isinstance(names, list):
        raise DataError(f"'{path}': 'names' must be a list of class names.", "Write names: [first, second].")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or not str(name).strip():
            raise DataError(f"'{path}': {name!r} in 'names' is not a class name.", "Put the name in quotes.")
    result = tuple(str(name).strip() for name in names)
    if len(result) > CLASS_LIMIT:
        raise DataError(f"'{path}' names more than {CLASS_LIMIT:,} classes.", "Check the file.")
    if count not in (None, len(result)):
        raise DataError(f"'{path}': 'nc' is {count}, but 'names' has {len(result)} classes.", "Make the two agree.")
    return unique_names(result, path)


def _keypoint_values(shape: Any, path: Path) -> int | None:
    """How many numbers follow the box in a label row of a pose data set; None where the file does not say."""
    if shape is None:
        return None
    if shape is False:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(v) is int and 0 < v < 10_000 for v in shape):
        return shape[0] * shape[1]
    raise DataError(f"'{path}': 'kpt_shape' must be two numbers such as [17, 3], or false.", "Correct it.")


def find(root: Path) -> Source | None:
    """Finds a YOLO data set by its folders or its lists of images; None if there is neither a label folder nor a list.

    Layouts: `images/{split}` + `labels/{split}`, `{split}/images` + `{split}/labels`, both without splits, or
    `{split}.txt` lists beside such folders.
    """
    return _source(root, _parts(root))


def find_flat(root: Path) -> Source | None:
    """Finds images and label files side by side, in `{split}` or without splits, as labelling tools leave them.

    A single folder `data` holds a data set without splits, as FiftyOne exports one (`YOLOv4Dataset`).
    """
    flat = {folder.name: Part(images=(folder,)) for folder in _folders(root) if _is_flat(folder)}
    if flat:
        return _source(root, flat if all(map(split_word, flat)) or tuple(flat) == ("data",) else {})
    return _source(root, {WHOLE: Part(images=(root,))} if _is_flat(root) else {})


def _source(root: Path, parts: Mapping[str, Part]) -> Source | None:
    if not parts:
        return None
    names = first_names(root, _NAME_FILES) or _darknet_names(parts)
    notes = [] if names else ["no file names the classes, so they are called by their numbers"]
    if (used := _name_file(root)) is not None:
        notes += [_unused(used, other) for other in _other_lists(used, root, names)]
    return Source(YOLO, root, root, named_splits(parts), names, notes=tuple(notes))


def _name_file(root: Path) -> Path | None:
    return next((root / name for name in _NAME_FILES if (root / name).is_file()), None)


def _parts(root: Path) -> dict[str, Part]:
    images, labels = root / "images", root / "labels"
    lists = {path.stem: Part(images=(path,)) for path in entries_ending(root, ".txt") if _lists_images(path)}
    if lists:
        return lists
    if images.is_dir() and labels.is_dir() and not _holds_others(labels):
        inside = [folder for folder in _folders(images) if (labels / folder.name).is_dir() or split_word(folder.name)]
        divided = [folder for folder in inside if has_images(folder)]
        if divided and not any(is_image(path.name) for path in images.iterdir()):
            return {folder.name: Part(images=(folder,)) for folder in divided}
        return {WHOLE: Part(images=(images,))} if has_images(images) else {}
    inside = [folder for folder in _folders(root) if (folder / "images").is_dir() and (folder / "labels").is_dir()]
    if any(_holds_others(folder / "labels") for folder in inside):
        return {}
    return {folder.name: Part(images=(folder / "images",)) for folder in inside}


def _holds_others(labels: Path) -> bool:
    """Whether a folder of labels holds JSON or XML files and no text: all its images would count as background."""
    found = False
    for entry in walk_files(labels):
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix == ".txt":
            return False
        found |= suffix in (".json", ".xml")
    return found


def _is_flat(folder: Path) -> bool:
    """Whether a folder has images beside label files of their names, the first of which holds rows of numbers."""
    files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    stems = sorted(os.path.splitext(name)[0] for name in files if is_image(name))
    labels = [folder / f"{stem}.txt" for stem in stems if f"{stem}.txt" in files]
    return bool(labels) and any(map(_is_label, labels[:_LOOKED_AT]))


def _is_label(path: Path) -> bool:
    try:
        rows = read_text(path, LABEL_LIMIT).split("\n")
        return any(len(values) >= 5 for row in rows if row.strip() for values in [[float(v) for v in row.split()]])
    except (DataError, ValueError):
        return False


def _darknet_names(parts: Mapping[str, Part]) -> tuple[str, ...] | None:
    """The class names of a Darknet export: `_darknet.labels` in each folder of images, all alike."""
    found = {}
    for part in parts.values():
        for place in part.images:
            if (names := first_names(place, ("_darknet.labels",)) if place.is_dir() else None) is not None:
                found[place / "_darknet.labels"] = names
    if len(set(found.values())) > 1:
        listed = ", ".join(f"'{path}'" for path in found)
        raise DataError(f"The lists of classes differ: {listed}.", "Make them agree: classes are numbers of lines.")
    return next(iter(found.values()), None)


def _folders(root: Path) -> Sequence[Path]:
    return [root / name for name in sorted(os.listdir(root)) if name[0] != "." and os.path.isdir(root / name)]


def _lists_images(path: Path) -> bool:
    """Whether a text file named after a split starts with the path of an image."""
    if split_word(path.stem) is None or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(4096).decode("utf-8-sig", "replace").strip()
    except OSError:
        return False
    return bool(start) and is_image(start.split("\n")[0].strip())


class YoloWriter:
    """Writes `data.yaml`, `images/{split}`, `labels/{split}`.

    An image whose every object has one outline that spans its box gets rows of outlines, any other rows of boxes:
    readers of the field take a file with one outline for a file of outlines.
    """

    one_file_an_image = True

    def __init__(self) -> None:
        self._splits: list[str] = []
        self._outlines = False

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names."""
        return Destination(f"images/{split_folder(split)}", name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the label files of one split; none for an image that is not labelled."""
        self._splits.append(split_folder(split))
        _count_losses(dataset, losses)
        labelled, labels = dataset.labelled, out / "labels" / split_folder(split)
        labels.mkdir(parents=True, exist_ok=True)
        for i, place in enumerate(places):
            path = (labels / place.name).with_suffix(".txt")
            if labelled[i]:
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = _rows(dataset, i, losses)
                self._outlines |= any(row.count(" ") > 4 for row in rows)
                path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes `data.yaml`. The splits train and val are required by readers of the field, the others free."""
        splits = {split: f"images/{split}" for split in self._splits}
        said = {"kpt_shape": False} if self._outlines else {}  # rows of outlines are no keypoints
        write_yaml(out / "data.yaml", {**splits, **said, "names": list(names)})


def _rows(dataset: Dataset, i: int, losses: Losses) -> list[str]:
    span = dataset.span(i)
    kept = np.flatnonzero(~dataset.crowd(i))
    boxes, labels = dataset.index.boxes[span][kept], dataset.labels(i)[kept]
    scale = dataset.sizes[i][::-1].astype(np.float64)  # width, height
    rings = [dataset.index.rings(span.start + thing) for thing in kept.tolist()]
    if any(rings):
        if all(len(one) == 1 and spans_box(one[0], box) for one, box in zip(rings, boxes)):
            return [_row(label, (one[0] / scale).ravel()) for label, one in zip(labels.tolist(), rings)]
        losses.add("outlines of several parts, or beside objects without one (boxes are kept)", sum(map(bool, rings)))
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / scale
    fractions = np.concatenate([centres, boxes[:, 2:] / scale], axis=1)
    return [_row(label, row) for label, row in zip(labels.tolist(), fractions)]


def _row(label: int, values: np.ndarray) -> str:
    return " ".join([str(label), *(f"{value:.12g}" for value in values.tolist())])


def _count_losses(dataset: Dataset, losses: Losses) -> None:
    crowds = sum(int(dataset.crowd(i).sum()) for i in range(len(dataset)))
    losses.add(f"crowd boxes {LEFT_OUT}", crowds)
    losses.add("difficult marks (boxes are kept)", sum(int(dataset.difficult(i).sum()) for i in range(len(dataset))))
    losses.add("areas of masks", num_mask_areas(dataset))
    if dataset.has_ids:
        losses.add("image and annotation ids (images are numbered in the order of their names)", len(dataset))
        if dataset.category_ids != tuple(range(len(dataset.names))):
            losses.set("category ids (classes are numbered from 0)", len(dataset.names))


def _check(source: Source, read: Sequence[ReadSplit], problems: Problems) -> None:
    for path in _spare_labels(source):
        message = "No image belongs to this label file."
        problems.warning("label-without-image", message, "Add the image, or delete the file.", file=path)
    named = source.described_by
    used = named if isinstance(named, Path) and named.is_file() else _name_file(source.root)
    for other in _other_lists(used, source.root, source.names) if used is not None else ():
        message = f"This list of classes differs from that of '{used}', which is used."
        problems.warning("class-lists-unlike", message, "Make the two agree, or delete one.", file=str(other))


def _spare_labels(source: Source) -> Iterator[str]:
    folders, expected = set(), set()
    for part in source.parts.values():
        try:
            listed, _ = list_images(part, source.root)
        except DataError:
            continue
        for _, path in listed:
            label = label_path(path)
            expected.add(label)
            if "/labels/" in label:
                folders.add(label.rpartition("/")[0])
    for folder in sorted(folders):
        if not os.path.isdir(folder) or any(folder.startswith(f"{other}/") for other in folders):
            continue
        for entry in walk_files(Path(folder)):
            if entry.name.endswith(".txt") and entry.name != "classes.txt" and entry.path not in expected:
                yield entry.path


def _image_root(source: Source, split: str, index: Index) -> Path:
    return source.root


def _wrong_unit(part: ReadSplit, known: np.ndarray) -> tuple[str, str]:
    return "", "YOLO rows are centre x, centre y, width, height; these may be corners."


YOLO = Format(
    name="yolo",
    title="YOLO text",
    layout="data.yaml, images/{split} + labels/{split}, {split}/images + {split}/labels, or labels beside images",
    find=find,
    find_flat=find_flat,
    find_file=find_file,
    files_of=files_of,
    read=read_split,
    image_root=_image_root,
    annotation_file=lambda source, split, path, name: label_path(path),
    write=YoloWriter,
    check=_check,
    wrong_unit=_wrong_unit,
    in_pixels=False,
    lists_images=True,
)
