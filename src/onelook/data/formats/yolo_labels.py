"""Reads the label files of YOLO text, and the lists of images."""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import index as bits
from onelook.data.building import Images, Objects, lay_out
from onelook.data.class_names import CLASS_LIMIT
from onelook.data.formats.base import Arrays, FilesOf, Part, Source
from onelook.data.paths import LIST_LIMIT, images_below, is_image, other_spelling, read_text, walk_files
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress

LABEL_LIMIT = 1 << 24  # bytes of one label file: a quarter of a million rows
REACH = 1.0  # of an image's side: what lies further outside is no box beyond its image, but in another unit
_REMEDY = "Correct the row, or remove it."


def list_images(part: Part, root: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(name, path) of every image of a split, sorted by name, each once; and notes on how lists were read.

    A name is relative to the data set's folder; absolute for what a list of the user's own names outside of it.
    Raises `DataError` for a folder or list that does not exist or holds no image.
    """
    found: dict[str, str] = {}
    notes: list[str] = []
    for place in part.images:
        if os.path.isdir(place):
            paths = [f"{place}/{name}" for name in images_below(place)]
        elif os.path.isfile(place) and is_image(place.name):
            paths = [str(place)]
        elif os.path.isfile(place):
            paths, dropped = _listed(place, root)
            notes += (
                [f"'{place.name}': the images are found without the '{dropped}' before their names"] if dropped else []
            )
        else:
            raise DataError(f"'{place}' does not exist.", "Correct the data set's description, or make the folder.")
        if not paths:
            raise DataError(f"'{place}' holds no image.", "Put images there, or correct the description.")
        start = f"{root}/"
        found.update((path.removeprefix(start), path) for path in paths)
    return sorted(found.items()), notes


def _listed(place: Path, root: Path) -> tuple[list[str], str]:
    """The images of a list: absolute, or relative to the list's folder (`./...`), to the data set, or to the list.

    Also what was taken from the front of names, "" for nothing: exports write `data/` or where the images once were.
    """
    dropped = ""
    paths, base, lines = [], str(place.parent), read_text(place, LIST_LIMIT).split("\n")
    for line, number in {line: number for number, line in enumerate(lines, 1)}.items():
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        if not is_image(name) or len(name) > 4096 or any(ord(mark) < 32 for mark in name):
            raise DataError(f"{place}:{number}: '{name[:80]}' is not the name of an image.", "List one image a line.")
        if not os.path.isabs(name):
            near = os.path.normpath(f"{base}/{name}")
            name = near if name.startswith("./") or base == str(root) else os.path.normpath(f"{root}/{name}")
            name = name if os.path.exists(name) else near
        if not os.path.exists(name):
            given = line.strip().replace("\\", "/")
            if not (dropped and given.startswith(dropped)):
                dropped = _prefix(given, (str(root), base)) or dropped
            for folder in (str(root), base) if dropped and given.startswith(dropped) else ():
                if os.path.exists(moved := f"{folder}/{given.removeprefix(dropped)}"):
                    name = moved
                    break
        paths.append(name)
    return paths, dropped


def _prefix(name: str, folders: Sequence[str]) -> str:
    """The shortest start of a path without which it names a file in one of the folders; "" where none does."""
    parts = name.split("/")
    for count in range(1, len(parts)):
        if any(os.path.exists(f"{folder}/{'/'.join(parts[count:])}") for folder in folders):
            return "/".join(parts[:count]) + "/"
    return ""


def label_path(image: str, is_folder: Callable[[str], bool] = os.path.isdir) -> str:
    """Where an image's labels are: `labels` for the last folder `images` in its path that has one, else beside it.

    is_folder: answers whether a folder exists; for many images one that remembers its answers.
    """
    stem = os.path.splitext(image)[0] + ".txt"
    before, found, after = stem.rpartition("/images/")
    while found:
        folder = f"{before}/labels/{after}"
        if is_folder(f"{before}/labels"):
            return folder
        before, found, further = before.rpartition("/images/")
        after = f"{further}/images/{after}"
    return stem


def files_of(source: Source, split: str) -> FilesOf:
    """Every file the split depends on: its images (for their sizes) and labels, lists, and what names the classes.

    Of a folder, all that is in it and in its folder of labels: asking the directory is several times quicker than
    asking for each file by its path.
    """
    if source.described_by.is_file():
        yield str(source.described_by), str(source.described_by)
    yield "|".join(source.names or ()), ""
    parts = [source.parts[split]] if source.names is not None else source.parts.values()
    for place in dict.fromkeys(place for part in parts for place in part.images):
        yield str(place), str(place)
        if os.path.isdir(place):
            labels = label_path(f"{place}/images").rpartition("/")[0]
            for folder in dict.fromkeys((str(place), labels)):
                yield folder.removeprefix(f"{source.root}/"), folder
                for entry in walk_files(Path(folder)) if os.path.isdir(folder) else ():
                    yield entry.path[len(folder) :], entry
        elif os.path.isfile(place) and not is_image(place.name):
            for path in _listed(place, source.root)[0]:
                yield path.removeprefix(f"{source.root}/"), path
                yield "labels", label_path(path)


class LongRows:
    """What rows of labels have in common that hold more than a box: outlines, or a box and keypoints.

    The two cannot be told apart by form. The rows of a pose data set are equally long, and as a rule have visibilities,
    or their points inside the box that the first four values give, which is inside the image.
    """

    ALIKE = 0.9  # the share of rows that must be equally long to be keypoints: a few may be damaged
    FITTING = 0.5  # the share of those that must fit a box and keypoints; of a pose data set nearly all do
    POINTS = 0.75  # the share of a row's points that must be inside of its box: a hand may reach out
    MANY = 1000  # rows, after which only those of the most frequent length are looked at, for speed
    NEAR = 2e-3  # of the image: how far outside a point still counts as inside; boxes and points are rounded

    def __init__(self) -> None:
        self.count = 0
        self._places: dict[int, dict[str, Any]] = {}
        self._counts: Counter[int] = Counter()
        self._fitting: Counter[int] = Counter()

    def add(self, values: Sequence[float], place: dict[str, Any]) -> None:
        """Looks at one row's values, without the class."""
        self.count += 1
        length = len(values)
        self._places.setdefault(length, place)
        self._counts[length] += 1
        if self.count < self.MANY or self._counts[length] > self.count / 2:
            self._fitting[length] += self._fits(values)

    def seem_keypoints(self) -> bool:
        """Whether nearly all rows are equally long, and at least half of them fit a box and keypoints."""
        same = self._counts[self.length]
        return same >= self.ALIKE * self.count and self._fitting[self.length] >= self.FITTING * same

    @property
    def length(self) -> int:
        """The most frequent number of values in a row, without the class."""
        return self._counts.most_common(1)[0][0]

    @property
    def shapes(self) -> str:
        """The settings of `kpt_shape` that a row of this length allows, as text."""
        values = self.length - 4
        found = [f"'kpt_shape: [{values // size}, {size}]'" for size in (2, 3) if values % size == 0]
        return " or ".join(found)

    @property
    def place(self) -> dict[str, Any]:
        """Of the first row of this length."""
        return self._places[self.length]

    def _fits(self, values: Sequence[float]) -> bool:
        (x, y, w, h), rest = values[:4], values[4:]
        if len(rest) > 3 and len(rest) % 3 == 0 and all(value in (0, 1, 2) for value in rest[2::3]):
            return True
        if len(values) == 8 and all(
            abs(values[i] + values[i + 4] - values[i + 2] - values[i + 6]) < 0.01 for i in (0, 1)
        ):
            return False  # the corners of a rectangle, turned or not, in their order
        reach = max(w / 2 - x, h / 2 - y, x + w / 2 - 1, y + h / 2 - 1)
        points = [point for point in zip(rest[::2], rest[1::2]) if point != (0, 0)]
        inside = sum(abs(px - x) <= w / 2 + self.NEAR and abs(py - y) <= h / 2 + self.NEAR for px, py in points)
        return reach <= 5 * self.NEAR and inside >= self.POINTS * len(points)


class Labels:
    """The label files of a split while they are read."""

    def __init__(self, num_classes: int | None, keypoint_values: int | None, problems: Problems) -> None:
        self.num_classes, self.keypoint_values, self.problems = num_classes, keypoint_values or 0, problems
        self.long_rows = LongRows() if keypoint_values is None else None
        self.objects = Objects()
        self.highest = -1

    def read(self, path: str, image_id: int, size: tuple[int, int]) -> bool:
        """Reads the labels of one image; False where it has no label file."""
        if not os.path.lexists(path):
            return False
        text = self.problems.read_or_report(
            "label-unreadable", "Replace the file.", lambda: read_text(path, LABEL_LIMIT), file=path
        )
        self.parse(text or "", path, image_id, size)
        return True

    def parse(self, text: str, path: str, image_id: int, size: tuple[int, int]) -> None:
        """Reads the rows of one image. path: where they are, for messages."""
        for line, row in enumerate(text.split("\n"), 1):
            fields = row.split()
            if fields:
                self._row(fields, path, line, image_id, size)

    def conclude(self) -> list[str]:
        """Reports rows that cannot be told apart from keypoints, once all are read; notes on how rows were read."""
        rows = self.long_rows
        if rows is None or not rows.count:
            return []
        if rows.seem_keypoints():
            message = f"each row has {rows.length + 1} values, which seem to be a box and keypoints, not an outline."
            remedy = f"Write {rows.shapes} into data.yaml; if they are outlines, 'kpt_shape: false'."
            self.problems.error("keypoints", message, remedy, **rows.place)
            return []
        return [
            f"{rows.count} rows of more than 5 values are read as outlines; keypoints need 'kpt_shape' in data.yaml"
        ]

    def _row(self, fields: list[str], path: str, line: int, image_id: int, size: tuple[int, int]) -> None:
        place: dict[str, Any] = {"file": path, "line": line}
        count = len(fields)
        is_polygon = count >= 7 and count % 2 == 1 and not self.keypoint_values
        if count != 5 + self.keypoint_values and count != 5 and not is_polygon:
            hint = " (is the last one a confidence?)" if count == 6 else ""
            hint = " (are they keypoints? Then data.yaml needs 'kpt_shape')" if count > 7 and self.long_rows else hint
            message = f"expected 5 values (class, centre x, y, width, height), or a class and an outline, found {count}"
            return self.problems.error("field-count", f"{message}{hint}.", _REMEDY, **place)
        try:
            values = list(map(float, fields))
        except ValueError:
            values = [math.nan]
        if not all(map(math.isfinite, values)) or "_" in "".join(fields):
            shown = " ".join(fields)[:80]
            return self.problems.error(
                "not-a-number", f"'{shown}' holds what is not a finite number.", _REMEDY, **place
            )
        label = self._label(values[0], place)
        if label is None:
            return None
        if is_polygon and self.long_rows is not None:
            self.long_rows.add(values[1:], place)
        values = values[1:] if is_polygon else values[1:5]
        is_mark = 2 in values and is_polygon and self.long_rows is not None
        if min(values) < -REACH or max(values) > 1 + REACH or is_mark:
            worst = max(values, key=lambda value: abs(value - 0.5))
            hint = " and seems to be in pixels" if worst > 2 else ""
            if worst == 2 and is_mark:
                hint = "; if it is the visibility of a keypoint, data.yaml needs 'kpt_shape'"
            message = f"{worst:g} is far outside of 0 to 1{hint}"
            remedy = "Labels are fractions of the image's width and height. " + _REMEDY
            return self.problems.error("not-normalised", f"{message}.", remedy, **place)
        box, rings = _pixels(values, size, is_polygon)
        if box[2] < 0 or box[3] < 0:
            return self.problems.error("box-negative", "the width or height is negative.", _REMEDY, **place)
        self.objects.add(len(self.objects) + 1, image_id, label, box, area=box[2] * box[3], rings=rings, line=line)
        return None

    def _label(self, value: float, place: dict[str, Any]) -> int | None:
        label = int(value)
        if label != value or label < 0 or label >= CLASS_LIMIT:
            self.problems.error("class-format", f"the class {value:g} is not a whole number from 0.", _REMEDY, **place)
            return None
        if self.num_classes is not None and label >= self.num_classes:
            message = f"the class {label} is not known: there are {self.num_classes} (0 to {self.num_classes - 1})"
            self.problems.error("unknown-category", f"{message}.", "Correct the row, or name the class.", **place)
            return None
        self.highest = max(self.highest, label)
        return label


def _pixels(values: list[float], size: tuple[int, int], is_polygon: bool) -> tuple[list[float], list[list[float]]]:
    """(box as left, top, width, height, outlines) in pixels."""
    height, width = size
    if not is_polygon:
        x, y, w, h = values
        return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height], []
    ring = [value * side for value, side in zip(values, (width, height) * (len(values) // 2))]
    left, top = min(ring[::2]), min(ring[1::2])
    return [left, top, max(ring[::2]) - left, max(ring[1::2]) - top], [ring]


def read_split(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of a split's index. Image ids are 1 to I in the sorted order of names."""
    listed, notes = list_images(source.parts[split], source.root)
    names = source.names
    labels = Labels(None if names is None else len(names), source.keypoint_values, problems)
    images, unlabelled, misspelt = Images(), 0, _Misspelt(source)
    owners: dict[str, str] = {}  # the first image of each label file
    shared: list[str] = []
    is_folder = lru_cache(maxsize=64)(os.path.isdir)
    sizes = image_sizes([path for _, path in listed], stop=problems.strict)
    for number, ((name, path), size) in enumerate(zip(listed, sizes), 1):
        if isinstance(size, ImageError):
            problems.error("image-unreadable", size.message, size.remedy, file=path)
            continue
        label = label_path(path, is_folder)
        is_labelled = labels.read(label, number, size)
        if not is_labelled:
            unlabelled += 1
            misspelt.report(label, path, problems)
        elif (owner := owners.setdefault(label, name)) != name:
            shared.append(f"'{owner}' and '{name}'")
            message = f"{shared[-1]} share this label file, so both have its boxes."
            problems.warning("label-shared", message, "Rename one of the images, with labels of its own.", file=label)
        images.add(number, name, size, flags=bits.MEASURED | (bits.LABELLED if is_labelled else 0))
        if number % 256 == 0:
            progress(number, len(listed))
    rows = np.searchsorted(np.array(images.ids, np.int64), np.array(labels.objects.image_ids, np.int64))
    arrays = lay_out(images, labels.objects, np.array(labels.objects.categories, np.int64), rows)
    if names is None:
        names = tuple(str(label) for label in range(max(labels.highest, _highest(source, split)) + 1))
    notes += [f"images without a label file, which count as background: {unlabelled}"] if unlabelled else []
    if shared:
        notes.append(
            f"images that share a label file, so that both have its boxes: {shared[0]}{_more(len(shared) - 1)}"
        )
    notes += labels.conclude()
    return arrays, {"names": list(names), "category_ids": list(range(len(names))), "notes": notes}


def _more(count: int) -> str:
    return f", and {count} more" if count else ""


class _Misspelt:
    """Finds label files whose names differ from the expected ones in form only: in Unicode, or in an ending `.TXT`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._folders: dict[str, dict[str, list[str]]] = {}
        self._expected: set[str] | None = None

    def report(self, label: str, image: str, problems: Problems) -> None:
        """Reports the file that seems to be meant by one that does not exist, unless another image has it."""
        folder, name = os.path.split(label)
        if folder not in self._folders:
            names = self._folders[folder] = {}
            for there in os.listdir(folder) if os.path.isdir(folder) else ():
                names.setdefault(_plain_form(there), []).append(there)
        for other in self._folders[folder].get(_plain_form(name), ()):
            path = f"{folder}/{other}"
            if path in self._of_others():
                continue
            is_ending = unicodedata.normalize("NFC", other) != unicodedata.normalize("NFC", name)
            why = f" The ending of '{other}' must be written '.txt'." if is_ending else other_spelling(label)
            message = f"'{image}' has no label file '{name}', but there is one of nearly this name.{why}"
            problems.error("label-spelling", message, "Rename one of the two files.", file=path)
            return

    def _of_others(self) -> set[str]:
        if self._expected is None:
            self._expected = set()
            for part in self._source.parts.values():
                try:
                    listed = list_images(part, self._source.root)[0]
                except DataError:  # of another split: reported when it is read
                    continue
                self._expected.update(label_path(path) for _, path in listed)
        return self._expected


def _plain_form(name: str) -> str:
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + ending.lower()


def _highest(source: Source, split: str) -> int:
    """The highest class number in the other splits, so that all splits agree on the classes."""
    highest = -1
    for name, part in source.parts.items():
        labels = Labels(None, source.keypoint_values, Problems(strict=False))
        for _, path in list_images(part, source.root)[0] if name != split else []:
            labels.read(label_path(path), 1, (1, 1))
        highest = max(highest, labels.highest)
    return highest
