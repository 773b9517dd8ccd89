"""COCO JSON (instances format), read as a stream: one element of the file in memory at a time."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import index as bits
from onelook.data.building import Images, Objects, lay_out, rows_of
from onelook.data.formats.base import CLASS_LIMIT
from onelook.data.jsonstream import JsonStream, integer, number
from onelook.data.paths import plain_name
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress
from onelook.reporter import ignore_progress as silent

PIXEL_LIMIT = 1e7
_IMAGE_FIELDS = {"id", "file_name", "height", "width"}
_OBJECT_FIELDS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult", "segmentation"}
_FLAG_FIELDS = {"truncated": bits.TRUNCATED, "occluded": bits.OCCLUDED}


class CocoFile:
    """One annotation file while it is read: what it says goes into flat arrays, what is wrong into `problems`."""

    def __init__(self, path: Path, problems: Problems, progress: Progress = silent) -> None:
        self.path, self.problems, self._progress = path, problems, progress
        self.images, self.objects = Images(), Objects()
        self.categories: list[tuple[int, str, dict[str, Any]]] = []
        self.rest: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        seen: set[str] = set()
        readers = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        with JsonStream(self.path, self._progress) as stream:
            for key in stream.keys():  # noqa: SIM118
                if key in seen and key in readers:
                    raise stream.fault(f"'{key}' appears twice", "Merge the two lists, with unique ids.")
                seen.add(key)
                if key in readers:
                    for position, (line, element) in enumerate(stream.elements(key)):
                        if isinstance(element, dict):
                            readers[key](element, position, line)
                        else:
                            self._fault("not-an-object", f"{key}[{position}] must be an object", line)
                elif key in ("info", "licenses"):
                    self.rest[key] = stream.value(key)
                else:
                    stream.skip()
        for key in ("images", "categories"):
            if key not in seen:
                raise DataError(
                    f"'{self.path}' has no '{key}', so it is not a COCO annotation file.",
                    "An annotation file holds 'images', 'annotations' and 'categories'.",
                )
        self.labelled = "annotations" in seen

    def _fault(self, code: str, message: str, line: int, annotation: int | None = None, remedy: str = "") -> None:
        remedy = remedy or "Correct the file, or export it again."
        self.problems.error(code, f"{message}.", remedy, file=str(self.path), line=line, annotation=annotation)

    def _image(self, element: dict[str, Any], position: int, line: int) -> None:
        where = f"images[{position}]"
        image_id = integer(element.get("id"))
        if image_id is None:
            return self._fault("image-id", f"{where}: 'id' must be an integer, not {_short(element.get('id'))}", line)
        name = plain_name(element.get("file_name"))
        if name is None:
            message = f"{where}: 'file_name' must be a path inside the data set, not {_short(element.get('file_name'))}"
            return self._fault("file-name", message, line)
        size: list[int] = []
        for key in ("height", "width"):
            value = element.get(key)
            pixels = 0 if value is None else integer(value)
            if pixels is None or (value is not None and not 0 < pixels <= 1 << 20):
                return self._fault(
                    "image-size", f"{where}: '{key}' must be a positive number, not {_short(value)}", line
                )
            size.append(pixels)
        extra = {key: value for key, value in element.items() if key not in _IMAGE_FIELDS}
        self.images.add(
            image_id, name, (size[0], size[1]), flags=0, line=line, extra=json.dumps(extra) if extra else ""
        )
        return None

    def _category(self, element: dict[str, Any], position: int, line: int) -> None:
        category_id, name = integer(element.get("id")), element.get("name")
        if category_id is None:
            message = f"categories[{position}]: 'id' must be an integer, not {_short(element.get('id'))}"
            return self._fault("category-id", message, line)
        if not isinstance(name, str) or not name.strip() or len(name) > 1000 or not _encodes(name):
            message = f"categories[{position}]: 'name' must be a text, not {_short(name)}"
            return self._fault("category-name", message, line)
        if len(self.categories) >= CLASS_LIMIT:
            raise DataError(f"'{self.path}' has more than {CLASS_LIMIT:,} categories.", "Check the file.")
        extra = {key: value for key, value in element.items() if key not in ("id", "name")}
        self.categories.append((category_id, name.strip(), extra))
        return None

    def _annotation(self, element: dict[str, Any], position: int, line: int) -> None:
        where = f"annotations[{position}]"
        ids = [integer(element.get(key)) for key in ("id", "image_id", "category_id")]
        for key, value in zip(("id", "image_id", "category_id"), ids):
            if value is None:
                message = f"{where}: '{key}' must be an integer, not {_short(element.get(key))}"
                return self._fault("annotation-ids", message, line, ids[0])
        rings, rle = self._outlines(element, where, line, ids[0])
        box = self._box(element, rings, where, line, ids[0])
        if box is None:
            return None
        area = element.get("area")
        pixels = box[2] * box[3] if area is None else number(area)
        if pixels is None or not 0 <= pixels <= PIXEL_LIMIT**2:
            return self._fault("area", f"{where}: 'area' must be a number from 0, not {_short(area)}", line, ids[0])
        flags = self._flags(element, where, line, ids[0])
        extra = {key: found for key, found in element.items() if key not in _OBJECT_FIELDS}
        for key in _FLAG_FIELDS:
            if extra.get(key) in (0, 1):
                del extra[key]
        if rle is not None:
            extra["segmentation"] = rle
        text = json.dumps(extra) if extra else ""
        self.objects.add(ids[0], ids[1], ids[2], box, area=pixels, flags=flags, rings=rings, line=line, extra=text)  # type: ignore[arg-type]
        return None

    def _flags(self, element: dict[str, Any], where: str, line: int, annotation: int | None) -> int:
        flags = 0
        for key, bit in (("iscrowd", bits.CROWD), ("difficult", bits.DIFFICULT)):
            value = element.get(key)
            if value not in (None, 0, 1):
                self._fault("flag", f"{where}: '{key}' must be 0 or 1, not {_short(value)}", line, annotation)
            flags |= bit if value == 1 else 0
        for key, bit in _FLAG_FIELDS.items():
            flags |= bit if element.get(key) in (1, True) else 0
        return flags

    def _box(
        self, element: dict[str, Any], rings: Sequence[Sequence[float]], where: str, line: int, annotation: int | None
    ) -> Sequence[float] | None:
        given = element.get("bbox")
        if given is None and rings:
            xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
            return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        box = [number(value) for value in given] if isinstance(given, list) and len(given) == 4 else [None]
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
            if not (isinstance(given.get("counts"), (str, list)) and isinstance(given.get("size"), list)):
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


def _coordinates(ring: object) -> array[float] | None:
    """The numbers of an outline; None where it is no list of finite numbers. Quick: most of a file are outlines."""
    if not isinstance(ring, list):
        return None
    try:
        values = array("d", ring)
    except (TypeError, OverflowError):
        return None
    return values if not values or (max(values) <= PIXEL_LIMIT and min(values) >= -PIXEL_LIMIT) else None


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


def read_split(
    path: Path, folders: Sequence[Path], problems: Problems, progress: Progress = silent
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the meta of an index for one annotation file. folders: where its images may lie."""
    file = CocoFile(path, problems, progress)
    names, ids, extras, notes = _classes(file)
    image_ids = np.array(file.images.ids, np.int64)
    _report_repeated(image_ids, file.images.lines, "image", problems, path)
    _report_repeated(np.array(file.objects.ids, np.int64), file.objects.lines, "annotation", problems, path)
    rows = rows_of(image_ids, np.array(file.objects.image_ids, np.int64))
    labels = rows_of(np.array(ids, np.int64), np.array(file.objects.categories, np.int64))
    for kind, places in (("image", rows), ("category", labels)):
        for row in np.flatnonzero(places < 0).tolist()[: 1 if problems.strict else None]:
            unknown = (file.objects.image_ids if kind == "image" else file.objects.categories)[row]
            problems.error(
                f"unknown-{kind}",
                f"annotations[{row}] names {kind} {unknown}, which is not in the file.",
                f"Add the {kind}, or remove the annotation.",
                file=str(path),
                line=file.objects.lines[row],
                annotation=file.objects.ids[row],
            )
    if file.labelled:
        file.images.flags = bytearray([bits.LABELLED]) * len(file.images)
    arrays = lay_out(file.images, file.objects, labels, rows, (rows >= 0) & (labels >= 0))
    meta = {"names": names, "category_ids": ids, "category_extras": extras, "rest": file.rest, "notes": notes}
    _fill_sizes(arrays, folders, file, progress)
    return arrays, meta


def _classes(file: CocoFile) -> tuple[list[str], list[int], list[dict[str, Any]], list[str]]:
    """Names, ids and further fields, ordered by id. A name given twice is allowed where only one of them is used."""
    categories, notes = sorted(file.categories, key=lambda category: category[0]), []
    for before, after in pairwise(categories):
        if before[0] == after[0]:
            message = f"Category id {after[0]} is given twice ('{before[1]}' and '{after[1]}')."
            file.problems.error("duplicate-category", message, "Make category ids unique.", file=str(file.path))
    categories = list({category[0]: category for category in categories}.values())
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
                file.problems.error("duplicate-category", message, "Give each its own name.", file=str(file.path))
                continue
            notes.append(f"the unused category {spare} with the repeated name '{name}' is left out")
            categories = [category for category in categories if category[0] not in spare]
    return [c[1] for c in categories], [c[0] for c in categories], [c[2] for c in categories], notes


def _report_repeated(ids: np.ndarray, lines: Sequence[int], kind: str, problems: Problems, path: Path) -> None:
    order = np.argsort(ids, kind="stable")
    for row in order[1:][ids[order][1:] == ids[order][:-1]].tolist():
        message = f"The {kind} id {ids[row]} is given twice."
        remedy = f"Make {kind} ids unique."
        annotation = int(ids[row]) if kind == "annotation" else None
        problems.error(f"duplicate-{kind}-id", message, remedy, file=str(path), line=lines[row], annotation=annotation)


def _fill_sizes(arrays: dict[str, np.ndarray], folders: Sequence[Path], file: CocoFile, progress: Progress) -> None:
    """Reads the sizes that the annotations do not give from the headers of the images."""
    missing = np.flatnonzero((arrays["sizes"] == 0).any(axis=1))
    if not len(missing):
        return
    ends, text = arrays["name_offsets"], arrays["name_bytes"].tobytes()
    names = [text[ends[row] : ends[row + 1]].decode() for row in missing.tolist()]
    folder = image_folder(file.path, folders, names)
    for row, size in zip(
        missing.tolist(), image_sizes([str(folder / name) for name in names], progress, stop=file.problems.strict)
    ):
        if isinstance(size, ImageError):
            place = {"file": str(file.path), "line": file.images.lines[row]}
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
