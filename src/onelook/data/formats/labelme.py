"""LabelMe: one JSON file beside each image, with shapes in pixels."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from onelook.data.class_names import first_names
from onelook.data.formats.base import (
    Arrays,
    Destination,
    FilesOf,
    Format,
    Losses,
    Part,
    Source,
    count_lost,
    single_outline,
    split_folder,
)
from onelook.data.formats.bounded_xml import REMEDY
from onelook.data.formats.collector import Collector, files_with_images, read_collected
from onelook.data.paths import first_bytes, images_below, read_bytes, walk_files
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE, named_splits, split_word
from onelook.errors import DataError
from onelook.reporter import Progress

FILE_LIMIT = 1 << 28  # bytes; a file may hold its image
SHAPE_LIMIT = 1 << 16
_LOOKED_AT = 8  # files that tell whether a folder has this format
_PEEK = 1 << 14  # bytes
_NAME_FILES = ("labels.txt",)
_OUTLINES = ("polygon", "linestrip")
_TWO_POINTS = ("rectangle", "circle", "line")


class _Shape(msgspec.Struct, gc=False):
    label: str
    points: list[list[float]]
    shape_type: str | None = "polygon"
    mask: msgspec.Raw | None = None


class _File(msgspec.Struct, rename="camel"):
    shapes: list[_Shape]
    image_path: str
    image_height: int | None = None
    image_width: int | None = None


_DECODER = msgspec.json.Decoder(_File)


def find_flat(root: Path) -> Source | None:
    """LabelMe in a folder: JSON files beside their images, in `{split}/` or without splits."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if any(split_word(folder.name) and _is_labelme(folder, deep=True) for folder in folders):
        parts = {folder.name: Part(images=(folder,)) for folder in folders if _is_labelme(folder, deep=True)}
        return Source(LABELME, root, root, named_splits(parts), first_names(root, _NAME_FILES))
    if not _is_labelme(root):
        return None
    return Source(LABELME, root, root, {WHOLE: Part(images=(root,))}, first_names(root, _NAME_FILES))


def _is_labelme(folder: Path, *, deep: bool = False) -> bool:
    """Whether one of the first JSON files in a folder or its folders (`deep`: at any depth) is one of LabelMe."""
    near = (path for pattern in ("*.json", "*/*.json") for path in folder.glob(pattern))
    below = (Path(entry.path) for entry in walk_files(folder) if entry.name.endswith(".json"))
    files = below if deep else near
    return any(_begins_as_labelme(path) for path in islice(files, _LOOKED_AT))


def _begins_as_labelme(path: Path) -> bool:
    start = first_bytes(path, _PEEK)
    return all(re.search(rb'"(' + keys + rb')"\s*:', start) for keys in (b"shapes|flags|version", b"shapes|imagePath"))


def _files(source: Source, split: str) -> Iterator[Path]:
    """The JSON files of a split, sorted."""
    folder = source.parts[split].images[0]
    return (Path(entry.path) for entry in walk_files(folder) if entry.name.endswith(".json"))


def _files_of(source: Source, split: str) -> FilesOf:
    return files_with_images(source, (path for other in source.parts for path in _files(source, other)))


def _parse(source: Source, split: str, collector: Collector, progress: Progress) -> None:
    folder = source.parts[split].images[0]
    files = list(_files(source, split))
    for number, path in enumerate(files, 1):
        problems = collector.problems
        found: _File | None = problems.read_or_report("json-unreadable", REMEDY, partial(_load, path), file=str(path))
        if found is not None:
            _add(found, path, folder, source.root, collector)
        if number % 64 == 0:
            progress(number, len(files))
    annotated = {os.path.splitext(path)[0] for path in map(str, files)}
    for name in images_below(folder):
        image = f"{folder}/{name}"
        if os.path.splitext(image)[0] not in annotated:
            collector.image(_below(source.root, image), labelled=False)


def _load(path: Path) -> _File:
    """One file. Raises `DataError` that names the key."""
    data = read_bytes(path, FILE_LIMIT)
    try:
        found = _DECODER.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}.", REMEDY) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}.", REMEDY) from None
    if len(found.shapes) > SHAPE_LIMIT:
        raise DataError(f"{path}: there are more than {SHAPE_LIMIT:,} shapes.", REMEDY)
    return found


def _below(root: Path, path: str) -> str:
    return Path(path).relative_to(root).as_posix()


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    return read_collected(_parse, source, split, problems, progress)


def _add(found: _File, path: Path, folder: Path, root: Path, collector: Collector) -> None:
    """Adds one file's image and shapes. The image has the file's stem, or the name that the file gives."""
    beside = _below(root, os.path.splitext(path)[0])
    name = collector.find(beside)
    if name is None or os.path.splitext(name)[0] != beside:  # one of this stem in another folder
        named = f"{_below(root, str(path.parent))}/{found.image_path}".removeprefix("./")
        name = collector.find(named) or name or named
    row = collector.image(name, (found.image_height, found.image_width), file=str(path))
    if row is None:
        return
    for number, shape in enumerate(found.shapes):
        place: dict[str, Any] = {"file": str(path)}
        points, kind = shape.points, shape.shape_type or "polygon"
        if any(len(point) != 2 for point in points) or (kind in _TWO_POINTS and len(points) < 2):
            message = f"shapes[{number}] ({kind}) of '{shape.label[:60]}' has unusable points."
            collector.problems.error("outline-format", message, REMEDY, **place)
        elif kind in _OUTLINES and len(points) > 2:
            collector.outline(row, shape.label, points, **place)
        elif kind in ("rectangle", "polygon", "mask", "line", "linestrip") and len(points) > 1:
            xs, ys = zip(*points)
            collector.box(row, shape.label, (min(xs), min(ys), max(xs), max(ys)), **place)
        elif kind == "circle":
            (x, y), edge = points[0], points[1]
            radius = math.hypot(edge[0] - x, edge[1] - y)
            collector.box(row, shape.label, (x - radius, y - radius, x + radius, y + radius), **place)
        else:
            message = f"shapes[{number}] of '{shape.label[:60]}' is a {kind[:40]}, which has no box."
            collector.problems.warning("shape-without-box", message, "It is not used.", **place)


class LabelMeWriter:
    """Writes `{split}/{image}` and `{split}/{image}.json`. Objects with one outline become polygons, others boxes."""

    one_file_an_image = True

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under the split's folder."""
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the files of one split; none for an image that is not labelled."""
        count_lost(dataset, losses, crowds=True)
        labelled = dataset.labelled
        (out / split_folder(split)).mkdir(exist_ok=True)
        for i, place in enumerate(places):
            if labelled[i]:
                path = (out / place.folder / place.name).with_suffix(".json")
                path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(_content(dataset, i, Path(place.name).name, losses), indent=1, ensure_ascii=False)
                path.write_text(text, encoding="utf-8")

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes the list of classes, without which they would be read in alphabetical order."""
        if names:  # a data set without any object may have none
            (out / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _content(dataset: Dataset, i: int, name: str, losses: Losses) -> dict[str, Any]:
    height, width = dataset.sizes[i].tolist()
    shapes, span = [], dataset.span(i)
    boxes, labels = dataset.index.boxes[span].tolist(), dataset.labels(i).tolist()
    for number, (label, (left, top, w, h)) in enumerate(zip(labels, boxes)):
        ring = single_outline(dataset, span.start + number, losses)
        points, kind = (ring, "polygon") if ring else ([[left, top], [left + w, top + h]], "rectangle")
        shape = {"label": dataset.names[label], "points": points, "group_id": None, "shape_type": kind, "flags": {}}
        shapes.append(shape)
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


LABELME = Format(
    name="labelme",
    title="LabelMe",
    layout="JSON files with shapes beside their images, in {split}/ or without splits",
    find=lambda root: None,
    find_flat=find_flat,
    files_of=_files_of,
    rank=1,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: str(Path(path).with_suffix(".json")),
    write=LabelMeWriter,
)
