"""Reads COCO annotation files of unknown quality: the one reader for training and for scoring."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import argoverse
from onelook.data import index as bits
from onelook.data.building import ImageColumns, Images, ObjectColumns, Objects, as_array, rows_of
from onelook.data.class_names import CLASS_LIMIT
from onelook.data.coco_entries import (
    ID_LIMIT,
    IMAGE_FIELDS,
    NAME_LIMIT,
    OBJECT_FIELDS,
    OPTIONAL_FLAGS,
    PIXEL_LIMIT,
    SIDE_LIMIT,
    are_run_lengths,
    parse_annotations,
    parse_boxes,
    parse_images,
    parse_named_images,
)
from onelook.data.jsonstream import Batch, JsonStream, Single, integer, number
from onelook.data.paths import plain_name, why_unusable
from onelook.data.problems import Problems
from onelook.errors import DataError
from onelook.reporter import Progress, ignore_progress

LISTS = ("images", "annotations", "categories")


class CocoFile:
    """The content of annotations: their values go into flat arrays, their faults into `problems`.

    boxes_only: leave out what scoring does not need, which is outlines and further fields; images are not opened
    then, so any file name will do.
    """

    def __init__(self, source: str | Path, problems: Problems, *, boxes_only: bool = False) -> None:
        self.source, self.problems, self._boxes_only = str(source), problems, boxes_only
        self.images, self.objects = Images(), Objects()
        self.categories: list[tuple[int, str, dict[str, Any]]] = []
        self.rest: dict[str, Any] = {}
        self._sequences: dict[str, Any] = {}  # what only Argoverse-HD has
        self._lists: set[str] = set()
        self._add: dict[str, Callable[[dict[str, Any], int, int], None]] = {
            "images": self._image,
            "annotations": self._annotation,
            "categories": self._category,
        }

    def read(self, progress: Progress = ignore_progress) -> CocoFile:
        """Reads the file that `source` names."""
        with JsonStream(Path(self.source), progress) as stream:
            for key in stream.keys():  # noqa: SIM118
                if key in self._lists:
                    raise stream.fault(f"'{key}' appears twice", "Merge the two lists, with unique ids.")
                if key in LISTS:
                    self._lists.add(key)
                    self._read_list(stream, key)
                elif key in ("info", "licenses") and not self._boxes_only:
                    self.rest[key] = stream.value(key)
                elif key in argoverse.KEYS:
                    self._sequences[key] = stream.value(key)
                else:
                    stream.skip()
        return self._finish()

    def read_dictionary(self, content: Mapping[str, Any]) -> CocoFile:
        """The same from memory."""
        for key in LISTS:
            if key not in content:
                continue
            if not isinstance(content[key], list):
                raise DataError(f"{self.source}: '{key}' must be a list.", "Give a COCO dictionary.")
            self._lists.add(key)
            for position, element in enumerate(content[key]):
                self.add_entry(key, element, position, 0)
        self._sequences = {key: content[key] for key in argoverse.KEYS if key in content}
        return self._finish()

    def _read_list(self, stream: JsonStream, key: str) -> None:
        position = 0
        for part in self._parts(stream, key):
            if isinstance(part, Single):
                self.add_entry(key, part.element, position, part.line)
                position += 1
                continue
            if isinstance(part.found, ImageColumns):
                self.images.extend(part.found, part.lines())
            else:
                self.objects.extend(part.found, part.lines())
            position += len(part.found)

    def _parts(self, stream: JsonStream, key: str) -> Iterator[Batch[ImageColumns] | Batch[ObjectColumns] | Single]:
        if key == "images":
            return stream.batches(key, parse_named_images if self._boxes_only else parse_images)
        if key == "annotations":
            return stream.batches(key, parse_boxes if self._boxes_only else parse_annotations)
        return (Single(line, element) for line, element in stream.elements(key))

    def _finish(self) -> CocoFile:
        self.labelled = "annotations" in self._lists
        for key in LISTS if self._boxes_only else ("images", "categories"):
            if key not in self._lists:
                raise DataError(
                    f"'{self.source}' has no '{key}', so it is not a COCO annotation file.",
                    "An annotation file holds 'images', 'annotations' and 'categories'.",
                )
        if "seq_dirs" in self._sequences and not self._boxes_only:
            argoverse.join_folders(self.source, self.images, self._sequences["seq_dirs"])
        if "coco_subset" in self._sequences:
            self.categories = [(number, argoverse.class_name(name), rest) for number, name, rest in self.categories]
        return self

    def sorted_categories(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Id, name and further fields, ordered by id; an id that is given twice is reported."""
        categories = sorted(self.categories, key=lambda category: category[0])
        for before, after in pairwise(categories):
            if before[0] == after[0]:
                message = f"Category id {after[0]} is given twice ('{before[1]}' and '{after[1]}')."
                self.problems.error("duplicate-category", message, "Make category ids unique.", file=self.source)
        return list({category[0]: category for category in categories}.values())

    def report_repeated_ids(self) -> None:
        """Reports image and annotation ids that are given twice."""
        for kind, numbers, lines in (
            ("image", self.images.ids, self.images.lines),
            ("annotation", self.objects.ids, self.objects.lines),
        ):
            ids = as_array(numbers, np.int64)
            if (ids[1:] > ids[:-1]).all():
                continue  # as most files have them
            order = np.argsort(ids, kind="stable")
            for row in order[1:][ids[order][1:] == ids[order][:-1]].tolist():
                place: dict[str, Any] = {"file": self.source, "line": lines[row] or None}
                place |= {"annotation": int(ids[row])} if kind == "annotation" else {}
                message, remedy = f"The {kind} id {ids[row]} is given twice.", f"Make {kind} ids unique."
                self.problems.error(f"duplicate-{kind}-id", message, remedy, **place)

    def references(self, image_ids: np.ndarray, category_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(M,) rows of `image_ids` and of `category_ids` that the objects name; -1 where unknown, which is reported."""
        images = rows_of(image_ids, as_array(self.objects.image_ids, np.int64))
        labels = rows_of(np.array(category_ids, np.int64), as_array(self.objects.categories, np.int64))
        for kind, places, named in (
            ("image", images, self.objects.image_ids),
            ("category", labels, self.objects.categories),
        ):
            for row in np.flatnonzero(places < 0).tolist()[: 1 if self.problems.strict else None]:
                self.problems.error(
                    f"unknown-{kind}",
                    f"annotations[{row}] names {kind} {named[row]}, which is not in the file.",
                    f"Add the {kind}, or remove the annotation.",
                    file=self.source,
                    line=self.objects.lines[row] or None,
                    annotation=self.objects.ids[row],
                )
        return images, labels

    def add_entry(self, key: str, element: Any, position: int, line: int) -> None:
        """Adds an element of one of `LISTS`. position: in its list.  line: in the file, 0 where that means nothing."""
        if isinstance(element, dict):
            self._add[key](element, position, line)
        else:
            self._fault("not-an-object", f"{key}[{position}] must be an object", line)

    def _fault(self, code: str, message: str, line: int, annotation: int | None = None) -> None:
        place = {"file": self.source, "line": line or None, "annotation": annotation}
        self.problems.error(code, f"{message}.", "Correct the file, or export it again.", **place)

    def _image(self, element: dict[str, Any], position: int, line: int) -> None:
        where = f"images[{position}]"
        image_id = integer(element.get("id"))
        if image_id is None:
            return self._fault("image-id", f"{where}: 'id' {_no_integer(element.get('id'))}", line)
        if self._boxes_only:
            return self.images.add(image_id, _shown_name(argoverse.name_of(element)), (0, 0), flags=0, line=line)
        name = plain_name(argoverse.name_of(element))
        if name is None:
            given = argoverse.name_of(element)
            return self._fault("file-name", f"{where}: 'file_name' {why_unusable(given)}, not {_short(given)}", line)
        size: list[int] = []
        for key in ("height", "width"):
            value = element.get(key)
            pixels = 0 if value is None else integer(value)
            if pixels is None or (value is not None and not 0 < pixels <= SIDE_LIMIT):
                return self._fault(
                    "image-size", f"{where}: '{key}' must be a positive number, not {_short(value)}", line
                )
            size.append(pixels)
        extra = {key: value for key, value in element.items() if key not in IMAGE_FIELDS}
        self.images.add(
            image_id, name, (size[0], size[1]), flags=0, line=line, extra=json.dumps(extra) if extra else ""
        )
        return None

    def _category(self, element: dict[str, Any], position: int, line: int) -> None:
        category_id, name = integer(element.get("id")), element.get("name")
        if category_id is None:
            message = f"categories[{position}]: 'id' {_no_integer(element.get('id'))}"
            return self._fault("category-id", message, line)
        if not isinstance(name, str) or not name.strip() or len(name) > NAME_LIMIT or not _encodes(name):
            message = f"categories[{position}]: 'name' must be a text, not {_short(name)}"
            return self._fault("category-name", message, line)
        if len(self.categories) >= CLASS_LIMIT:
            raise DataError(f"'{self.source}' has more than {CLASS_LIMIT:,} categories.", "Check the file.")
        extra = {key: value for key, value in element.items() if key not in ("id", "name")}
        self.categories.append((category_id, name.strip(), extra))
        return None

    def _annotation(self, element: dict[str, Any], position: int, line: int) -> None:
        where = f"annotations[{position}]"
        ids = [integer(element.get(key)) for key in ("id", "image_id", "category_id")]
        for key, value in zip(("id", "image_id", "category_id"), ids):
            if value is None:
                message = f"{where}: '{key}' {_no_integer(element.get(key))}"
                return self._fault("annotation-ids", message, line, ids[0])
        rings, rle = ([], None) if self._boxes_only else self._outlines(element, where, line, ids[0])
        box = self._box(element, rings, where, line, ids[0])
        if box is None:
            return None
        area = element.get("area")
        pixels = box[2] * box[3] if area is None else number(area)
        if pixels is None or not 0 <= pixels <= PIXEL_LIMIT**2:
            return self._fault("area", f"{where}: 'area' must be a number from 0, not {_short(area)}", line, ids[0])
        flags = self._flags(element, where, line, ids[0])
        text = "" if self._boxes_only else _further_fields(element, rle)
        self.objects.add(ids[0], ids[1], ids[2], box, area=pixels, flags=flags, rings=rings, line=line, extra=text)  # type: ignore[arg-type]
        return None

    def _flags(self, element: dict[str, Any], where: str, line: int, annotation: int | None) -> int:
        flags = 0
        for key, bit in (("iscrowd", bits.CROWD), ("difficult", bits.DIFFICULT)):
            value = element.get(key)
            if value not in (None, 0, 1):
                self._fault("flag", f"{where}: '{key}' must be 0 or 1, not {_short(value)}", line, annotation)
            flags |= bit if value == 1 else 0
        for key, bit in OPTIONAL_FLAGS.items():
            flags |= bit if element.get(key) in (1, True) else 0
        return flags

    def _box(
        self, element: dict[str, Any], rings: Sequence[Sequence[float]], where: str, line: int, annotation: int | None
    ) -> Sequence[float] | None:
        given = element.get("bbox")
        if given is None and rings:
            xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
            return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        box = [number(value) for value in given] if isinstance(given, (list, tuple)) and len(given) == 4 else [None]
        if any(value is None or abs(value) > PIXEL_LIMIT for value in box):
            message = f"{where}: 'bbox' must be four finite numbers [x, y, width, height], not {_short(given)}"
            self._fault("box-format", message, line, annotation)
            return None
        if box[2] < 0 or box[3] < 0:  # type: ignore[operator]
            self._fault("box-negative", f"{where}: 'bbox' {given} has a negative width or height", line, annotation)
            return None
        return box  # type: ignore[return-value]

    def _outlines(
        self, element: dict[str, Any], where: str, line: int, annotation: int | None
    ) -> tuple[list[array[float]], Any]:
        """(polygons, run lengths or None)."""
        given = element.get("segmentation")
        if not given:
            return [], None
        if isinstance(given, dict):
            if not are_run_lengths(given):
                message = f"{where}: the run lengths in 'segmentation' need 'counts' and 'size'"
                self._fault("segmentation", message, line, annotation)
                return [], None
            return [], given
        rings = []
        for ring in given if isinstance(given, list) else [None]:
            values = _coordinates(ring)
            if values is None or len(values) % 2:
                message = f"{where}: 'segmentation' must be lists of x, y, x, y, ..., not {_short(ring)}"
                self._fault("segmentation", message, line, annotation)
                return [], None
            if values:
                rings.append(values)
        return rings, None


def _further_fields(element: Mapping[str, Any], rle: Any) -> str:
    """The JSON of what no array holds, "" where there is nothing."""
    extra = {
        key: value
        for key, value in element.items()
        if key not in OBJECT_FIELDS or (key in OPTIONAL_FLAGS and value not in (0, 1))
    }
    if rle is not None:
        extra["segmentation"] = rle
    return json.dumps(extra) if extra else ""


def _shown_name(name: object) -> str:
    return name[:NAME_LIMIT] if isinstance(name, str) and _encodes(name) else ""


def _coordinates(ring: object) -> array[float] | None:
    """The numbers of an outline; None where it is no list of finite numbers. Quick: most of a file are outlines."""
    if not isinstance(ring, list):
        return None
    try:
        values = array("d", ring)
    except (TypeError, OverflowError):
        return None
    return values if not values or (max(values) <= PIXEL_LIMIT and min(values) >= -PIXEL_LIMIT) else None


def _no_integer(value: object) -> str:
    """Why a value is no id."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) > ID_LIMIT:
        return f"is too large: {_short(value)}, where {ID_LIMIT} is the largest; number the entries anew"
    return f"must be an integer, not {_short(value)}"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: object) -> str:
    """A value as it is shown in a message, of bounded length."""
    text = json.dumps(value)[:200] if value is None or isinstance(value, (str, bool)) else repr(value)[:200]
    return text if len(text) <= 60 else text[:60] + "..."
