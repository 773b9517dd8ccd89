"""COCO annotation files of unknown quality, read as a ground truth without the images they describe."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.jsonstream import JsonStream
from onelook.errors import DataError
from onelook.evaluation.tables import LARGEST, GroundTruth, box_problem, shown, whole_number

LISTS = ("images", "annotations", "categories")
_LARGEST_COUNT = {"images": 10_000_000, "annotations": 40_000_000, "categories": 100_000}
_LONGEST_NAME = 1000


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Reads a COCO instances file; memory is about 60 bytes an annotation, masks are passed over.

    Raises DataError naming the file and the entry, as `GroundTruth.from_coco` does.
    """
    builder = GroundTruthBuilder(str(path))
    with JsonStream(Path(path)) as stream:
        for key in stream.keys():  # noqa: SIM118
            if key not in LISTS:
                stream.skip()
                continue
            if key in builder.counts:
                raise stream.fault(f"'{key}' appears twice", "Merge the two lists, with unique ids.")
            builder.begin(key)
            for builder.line, entry in stream.elements(key):
                builder.add(key, entry)
    builder.line = 0
    return builder.finish()


def ground_truth(annotations: Mapping[str, Any], source: str) -> GroundTruth:
    """A COCO dictionary in memory as a ground truth; see `GroundTruth.from_coco`."""
    builder = GroundTruthBuilder(source)
    if not isinstance(annotations, Mapping):
        raise builder.error(f"COCO annotations are an object, not {shown(annotations)}")
    for key in LISTS:
        entries = annotations.get(key, [])
        if not isinstance(entries, list):
            raise builder.error(f"'{key}' must be a list, not {shown(entries)}")
        if key in annotations:
            builder.begin(key)
        for entry in entries:
            builder.add(key, entry)
    return builder.finish()


class GroundTruthBuilder:
    """Collects the entries of a COCO dictionary in any order, then makes arrays of them.

    `source` is what error messages name, `line` the entry's line in it, 0 where there is none. The order of the lists
    is free: references are resolved at the end.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.line = 0
        self.counts: dict[str, int] = {}
        self.files: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.image_ids, self.category_ids = array("q"), array("q")
        self.boxes, self.areas, self.crowds = array("d"), array("d"), array("b")

    def begin(self, key: str) -> None:
        """A list starts; one without entries must be told as well."""
        self.counts[key] = 0

    def add(self, key: str, entry: Any) -> None:
        """The next entry of a list."""
        index = self.counts[key]
        self.counts[key] = index + 1
        name = f"{key}[{index}]"
        if index >= _LARGEST_COUNT[key]:
            raise self.error(f"'{key}' has more than {_LARGEST_COUNT[key]} entries")
        if not isinstance(entry, dict):
            raise self.error(f"{name} must be an object, not {shown(entry)}")
        if key == "images":
            self._unique(self.files, entry, name)[_id(entry)] = str(entry.get("file_name", ""))[:_LONGEST_NAME]
        elif key == "categories":
            if not isinstance(entry.get("name"), str) or len(entry["name"]) > _LONGEST_NAME:
                raise self.error(f"{name}: 'name' must be text, not {shown(entry.get('name'))}")
            self._unique(self.names, entry, name)[_id(entry)] = entry["name"]
        else:
            self._add_object(entry, f"{name} (id {shown(entry['id'])})" if "id" in entry else name)

    def finish(self) -> GroundTruth:
        """Everything as arrays; images and classes in the order of their ids."""
        for key in LISTS:
            if key not in self.counts:
                raise self.error(f"'{key}' is missing; COCO annotations have images, annotations and categories")
        image_ids, category_ids = sorted(self.files), sorted(self.names)
        return GroundTruth(
            np.array(image_ids, np.int64),
            tuple(self.files[key] for key in image_ids),
            _distinct([self.names[key] for key in category_ids], category_ids),
            tuple(category_ids),
            self._resolve("image_id", self.image_ids, image_ids),
            self._resolve("category_id", self.category_ids, category_ids),
            np.array(self.boxes, np.float64).reshape(-1, 4),
            np.array(self.areas, np.float64),
            np.array(self.crowds, np.int8).astype(bool),
        )

    def _add_object(self, entry: dict[str, Any], name: str) -> None:
        for key, ids in (("image_id", self.image_ids), ("category_id", self.category_ids)):
            value = whole_number(entry.get(key))
            if value is None:
                found = f"must be a whole number, not {shown(entry[key])}" if key in entry else "is missing"
                raise self.error(f"{name}: '{key}' {found}")
            ids.append(value)
        box = entry.get("bbox")
        if problem := box_problem(box):
            raise self.error(f"{name}: {problem if 'bbox' in entry else 'the key bbox is missing'}")
        self.boxes.extend(entry["bbox"])
        self.areas.append(self._number(entry, "area", entry["bbox"][2] * entry["bbox"][3], name))
        self.crowds.append(self._number(entry, "iscrowd", 0, name) != 0)

    def _unique(self, known: dict[int, str], entry: dict[str, Any], name: str) -> dict[int, str]:
        number = whole_number(entry.get("id"))
        if number is None:
            raise self.error(f"{name}: 'id' must be a whole number, not {shown(entry.get('id'))}")
        if number in known:
            raise self.error(f"{name}: the id {number} is already taken by an earlier entry")
        return known

    def _resolve(self, key: str, references: array[int], ids: Sequence[int]) -> np.ndarray:
        wanted, known = np.array(references, np.int64), np.array(ids, np.int64)
        rows = np.searchsorted(known, wanted)
        right = np.zeros(len(wanted), bool)
        inside = rows < len(known)
        right[inside] = known[rows[inside]] == wanted[inside]
        if not right.all():
            index = int(right.argmin())
            where = "images" if key == "image_id" else "categories"
            raise self.error(f"annotations[{index}]: '{key}' {wanted[index]} is not listed under '{where}'")
        return rows.astype(np.int64)

    def _number(self, entry: dict[str, Any], key: str, default: float, name: str) -> float:
        value = entry.get(key)
        if value is None:
            return default
        if not isinstance(value, (bool, int, float)) or not 0 <= value <= LARGEST * LARGEST:
            raise self.error(f"{name}: '{key}' must be a number of at least 0, not {shown(value)}")
        return float(value)

    def error(self, message: str) -> DataError:
        """What is wrong, with the source."""
        place = f"{self.source}:{self.line}" if self.line else self.source
        return DataError(f"{place}: {message}.")


def _id(entry: dict[str, Any]) -> int:
    return int(entry["id"])


def _distinct(names: Sequence[str], ids: Sequence[int]) -> tuple[str, ...]:
    """Names by which classes can be told apart: one that two classes share is followed by the id."""
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return tuple(f"{name} ({number})" if name in twice else name for name, number in zip(names, ids))
