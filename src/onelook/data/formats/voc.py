"""Pascal VOC: one XML file an image, boxes by their first and last pixel, counted from 1."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

import numpy as np

from onelook.data import index as bits
from onelook.data.building import Images, Objects, lay_out
from onelook.data.formats.base import Source
from onelook.data.formats.voc_layout import annotation_folder, ids_of, image_folder
from onelook.data.paths import images_below, plain_name, read_bytes
from onelook.data.problems import Problems
from onelook.data.progress import Progress, silent
from onelook.data.sizes import image_sizes
from onelook.errors import DataError, ImageError

XML_LIMIT = 1 << 24  # bytes of one file
DEPTH_LIMIT = 32
TEXT_LIMIT = 4096
OBJECT_LIMIT = 1 << 16
_REMEDY = "Correct the file, or export it again."
_FIELDS = ("name", "difficult", "truncated", "occluded", "pose")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocObject:
    """One `<object>`: its texts by tag, as written, and the line it starts on."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class VocFile:
    """What one XML file says."""

    texts: dict[str, str] = field(default_factory=dict)  # filename, width, height
    objects: list[VocObject] = field(default_factory=list)


class _Parser:
    """Collects the few tags that matter. Document types, entities and processing of either are refused."""

    _KEPT = frozenset(
        ["filename", "size/width", "size/height", *(f"object/{name}" for name in _FIELDS)]
        + [f"object/bndbox/{side}" for side in _SIDES]
    )

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, VocFile()
        self._tags: list[str] = []
        self._text: list[str] | None = None
        self._length = 0
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters
        self._expat.StartDoctypeDeclHandler = self._refuse
        self._expat.EntityDeclHandler = self._refuse
        self._expat.buffer_text = True

    def read(self) -> VocFile:
        data = read_bytes(self.path, XML_LIMIT)
        try:
            self._expat.Parse(data, True)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code] if error.code in expat.errors.messages else str(error)
            raise DataError(f"{self.path}:{error.lineno}: not valid XML: {reason}.", _REMEDY) from None
        except (ValueError, LookupError) as error:  # an encoding that Python does not know
            raise DataError(f"{self.path}: not readable XML: {error}.", _REMEDY) from None
        return self.found

    def _fail(self, message: str) -> NoReturn:
        raise DataError(f"{self.path}:{self._expat.CurrentLineNumber}: {message}.", _REMEDY)

    def _refuse(self, *_: object) -> NoReturn:
        self._fail("the file declares a document type or entities, which annotations do not need, so it is refused")

    def _start(self, tag: str, _: object) -> None:
        if not self._tags and tag != "annotation":
            self._fail(f"expected <annotation>, found <{tag[:80]}>")
        self._tags.append(tag)
        if len(self._tags) > DEPTH_LIMIT:
            self._fail(f"the tags are nested more than {DEPTH_LIMIT} deep")
        place = "/".join(self._tags[1:])
        if place == "object":
            if len(self.found.objects) >= OBJECT_LIMIT:
                self._fail(f"there are more than {OBJECT_LIMIT:,} objects")
            self.found.objects.append(VocObject(self._expat.CurrentLineNumber))
        self._text, self._length = ([], 0) if place in self._KEPT else (None, 0)

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._length += len(text)
            if self._length > TEXT_LIMIT:
                self._fail(f"the text of <{self._tags[-1]}> is longer than {TEXT_LIMIT:,} characters")
            self._text.append(text)

    def _end(self, tag: str) -> None:
        if self._text is not None:
            inside = len(self._tags) > 2 and self._tags[1] == "object"
            texts = self.found.objects[-1].texts if inside else self.found.texts
            texts[tag] = "".join(self._text).strip()
        self._text = None
        self._tags.pop()


def read_xml(path: Path) -> VocFile:
    """One annotation file. Raises `DataError` with file and line."""
    return _Parser(path).read()


def files_of(source: Source, split: str) -> list[tuple[str, str]]:
    """Every file the split depends on: all lists and annotations (they name the classes), and the image folder."""
    files = {}
    for name, part in source.parts.items():
        folder = annotation_folder(source, name)
        if part.annotations is not None:
            files[part.annotations.name] = str(part.annotations)
        for image in ids_of(source, name):
            files[f"{folder.name}/{image}"] = f"{folder}/{image}.xml"
    files["images"] = str(image_folder(source, split))
    return [*files.items(), ("|".join(source.names or ()), "")]


def read_split(
    source: Source, split: str, problems: Problems, progress: Progress = silent
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the meta of a split's index. Image ids are 1 to I in the sorted order of ids.

    Classes are in alphabetical order over all splits, unless a file `labels.txt` or `classes.txt` lists them.
    """
    ids, folder, images_in = ids_of(source, split), annotation_folder(source, split), image_folder(source, split)
    on_disk = {os.path.splitext(name)[0]: name for name in images_below(images_in)} if images_in.is_dir() else {}
    images, objects, names = Images(), Objects(), []
    unlabelled: list[str] = []
    for number, image in enumerate(ids, 1):
        if plain_name(image) != image:
            place = {"file": str(source.parts[split].annotations)}
            problems.error("file-name", f"'{image[:80]}' is not the name of an image.", "Correct the list.", **place)
            continue
        path = folder / f"{image}.xml"
        found: VocFile | None = VocFile()
        if path.exists() or path.is_symlink():
            found = problems.attempt("xml-unreadable", _REMEDY, partial(read_xml, path), file=str(path))
        else:
            unlabelled.append(image)
        if found is not None:
            flags = 0 if image in unlabelled[-1:] else bits.LABELLED
            images.add(number, _image_name(image, found, on_disk), _size(found, path, problems), flags=flags)
            names += _add_objects(found.objects, objects, number, path, problems)
        if number % 64 == 0:
            progress(number, len(ids))
    classes = source.names or tuple(sorted({*names, *_names_elsewhere(source, split)}))
    labels = _labels(names, classes, objects, source, problems)
    rows = np.searchsorted(np.array(images.ids, np.int64), np.array(objects.image_ids, np.int64))
    arrays = lay_out(images, objects, labels, rows, labels >= 0)
    _fill_sizes(arrays, images_in, problems)
    notes = [f"images without an annotation file, which count as background: {len(unlabelled)}"] if unlabelled else []
    return arrays, {"names": list(classes), "category_ids": list(range(len(classes))), "notes": notes}


def _image_name(image: str, found: VocFile, on_disk: dict[str, str]) -> str:
    """The file that has the id as its name; else the one the annotation names, if it exists; else `{id}.jpg`."""
    if image in on_disk:
        return on_disk[image]
    given = plain_name(found.texts.get("filename", ""))
    stem = os.path.splitext(given.rpartition("/")[2])[0] if given else ""
    return on_disk.get(stem, f"{image}.jpg")


def _size(found: VocFile, path: Path, problems: Problems) -> tuple[int, int]:
    """(height, width) as annotated; zeros where the annotation does not know (then the image's header does)."""
    size = []
    for side in ("height", "width"):
        text = found.texts.get(side, "") or "0"
        value = _number(text)
        if value is None or value != int(value) or not 0 <= value <= 1 << 20:
            problems.error(
                "image-size", f"<{side}> must be a number of pixels, not '{text[:60]}'.", _REMEDY, file=str(path)
            )
            value = 0
        size.append(int(value))
    return (size[0], size[1]) if all(size) else (0, 0)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e7 and "_" not in text else None


def _add_objects(found: list[VocObject], objects: Objects, number: int, path: Path, problems: Problems) -> list[str]:
    """Adds one file's objects; returns their class names."""
    names = []
    for thing in found:
        place = {"file": str(path), "line": thing.line}
        name = thing.texts.get("name", "")
        if not name:
            problems.error("class-format", "an object has no <name>.", _REMEDY, **place)
            continue
        sides = [_number(thing.texts.get(side, "")) for side in _SIDES]
        if None in sides:
            wrong = next(side for side, value in zip(_SIDES, sides) if value is None)
            text = thing.texts.get(wrong)
            message = f"<{wrong}> of '{name[:60]}' " + (
                "is missing" if text is None else f"is '{text[:60]}', no number"
            )
            problems.error("box-format", f"{message}.", _REMEDY, **place)
            continue
        x1, y1, x2, y2 = (value - 1 for value in sides if value is not None)  # the official -1 on all four
        if x2 < x1 or y2 < y1:
            problems.error("box-negative", f"the box of '{name[:60]}' ends before it starts.", _REMEDY, **place)
            continue
        box = (x1, y1, x2 - x1, y2 - y1)
        pose = thing.texts.get("pose", "")
        extra = json.dumps({"pose": pose}) if pose and pose.lower() != "unspecified" else ""
        flags = _flags(thing, place, problems)
        objects.add(len(objects) + 1, number, 0, box, area=box[2] * box[3], flags=flags, line=thing.line, extra=extra)
        names.append(name)
    return names


def _flags(thing: VocObject, place: dict[str, Any], problems: Problems) -> int:
    flags = 0
    for tag, bit in (("difficult", bits.DIFFICULT), ("truncated", bits.TRUNCATED), ("occluded", bits.OCCLUDED)):
        text = thing.texts.get(tag, "").lower() or "0"
        if text in ("1", "true", "yes"):
            flags |= bit
        elif text not in ("0", "false", "no", "unspecified"):
            message = f"<{tag}> must be 0 or 1, not '{text[:60]}'."
            (problems.error if tag == "difficult" else problems.warning)("flag", message, _REMEDY, **place)
    return flags


def _names_elsewhere(source: Source, split: str) -> set[str]:
    """The class names of the other splits. Their files are judged when they are opened themselves."""
    own, names = set(ids_of(source, split)), set()
    for other in source.parts:
        folder = annotation_folder(source, other)
        for image in ids_of(source, other) if other != split else ():
            path = folder / f"{image}.xml"
            if (image in own and folder == annotation_folder(source, split)) or plain_name(image) != image:
                continue
            if path.exists():
                try:
                    names |= {thing.texts.get("name", "") for thing in read_xml(path).objects}
                except DataError:
                    continue
    return names - {""}


def _labels(
    names: list[str], classes: Iterable[str], objects: Objects, source: Source, problems: Problems
) -> np.ndarray:
    known = {name: label for label, name in enumerate(classes)}
    labels = np.array([known.get(name, -1) for name in names], np.int64)
    for row in np.flatnonzero(labels < 0).tolist():
        message = f"The class '{names[row][:60]}' (object {row + 1} of the split) is not in the list of classes."
        problems.error("unknown-category", message, "Add it to the list, or correct it.", file=str(source.root))
    return labels


def _fill_sizes(arrays: dict[str, np.ndarray], folder: Path, problems: Problems) -> None:
    missing = np.flatnonzero((arrays["sizes"] == 0).any(axis=1)).tolist()
    ends, text = arrays["name_offsets"], arrays["name_bytes"].tobytes()
    paths = [str(folder / text[ends[row] : ends[row + 1]].decode()) for row in missing]
    for row, size in zip(missing, image_sizes(paths, stop=problems.strict)):
        if isinstance(size, ImageError):
            problems.error("image-unreadable", size.message, size.remedy, file=paths[missing.index(row)])
        else:
            arrays["sizes"][row] = size
