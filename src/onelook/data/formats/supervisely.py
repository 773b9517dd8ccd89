"""Supervisely: `meta.json`, and in each dataset's folder `img/` and `ann/` with one JSON file an image."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from onelook.data.class_names import CLASS_LIMIT, unique_names
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
from onelook.data.formats.collector import (
    Collector,
    check_unlisted,
    files_with_images,
    read_collected,
)
from onelook.data.headers import DamagedHeaderError, read_header
from onelook.data.paths import images_below, read_bytes
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE, named_splits, split_word
from onelook.errors import DataError
from onelook.reporter import Progress

FILE_LIMIT = 1 << 26  # bytes
OBJECT_LIMIT = 1 << 16
_HEADER = 64  # bytes of a bitmap's PNG that hold its size


class _Points(msgspec.Struct):
    exterior: list[list[float]] = []


class _Bitmap(msgspec.Struct):
    origin: list[float]
    data: str


class _Object(msgspec.Struct, rename="camel"):
    class_title: str
    geometry_type: str
    points: _Points | None = None
    bitmap: _Bitmap | None = None


class _Size(msgspec.Struct):
    height: int
    width: int


class _File(msgspec.Struct):
    size: _Size
    objects: list[_Object]


class _Class(msgspec.Struct):
    title: str


class _Meta(msgspec.Struct):
    classes: list[_Class]


def find(root: Path) -> Source | None:
    """A Supervisely project: `meta.json` and folders with `img/` and `ann/`; None where there is none.

    A dataset called as a split (`train`) is one; if none is, all datasets are one undivided whole.
    """
    if not (root / "meta.json").is_file():
        return None
    folders = [path for path in sorted(root.iterdir()) if (path / "ann").is_dir() and (path / "img").is_dir()]
    if not folders:
        return None
    divided = all(split_word(folder.name) for folder in folders)
    parts = (
        {folder.name: Part(images=(folder,)) for folder in folders} if divided else {WHOLE: Part(images=(*folders,))}
    )
    meta = _decoded(root / "meta.json", _Meta)
    names = tuple(one.title.strip() for one in meta.classes)
    if len(names) > CLASS_LIMIT:
        raise DataError(f"{root / 'meta.json'}: there are more than {CLASS_LIMIT:,} classes.", REMEDY)
    return Source(SUPERVISELY, root, root, named_splits(parts), unique_names(names, root / "meta.json"))


def _decoded(path: Path, kind: Any) -> Any:
    """The content of a JSON file. Raises `DataError` that names the key."""
    data = read_bytes(path, FILE_LIMIT).removeprefix(b"\xef\xbb\xbf")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}.", REMEDY) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}.", REMEDY) from None


def _images(source: Source, split: str) -> Iterator[tuple[Path, str]]:
    """(folder of the dataset, name of an image in its `img/`)."""
    for folder in source.parts[split].images:
        yield from ((folder, name) for name in images_below(folder / "img"))


def _annotation(folder: Path, name: str) -> Path:
    """The annotation file of an image: `a.jpg.json`, or `a.json` as older exports have it."""
    path = folder / "ann" / f"{name}.json"
    older = (folder / "ann" / name).with_suffix(".json")
    return older if not path.is_file() and older.is_file() else path


def _files_of(source: Source, split: str) -> FilesOf:
    files = (_annotation(folder, name) for folder, name in _images(source, split))
    return files_with_images(source, (source.root / "meta.json", *files))


def _parse(source: Source, split: str, collector: Collector, progress: Progress) -> None:
    listed = list(_images(source, split))
    for number, (folder, name) in enumerate(listed, 1):
        path, image = _annotation(folder, name), f"{folder.name}/img/{name}"
        if not path.is_file():
            collector.image(image, labelled=False)
            continue
        read = partial(_decoded, path, _File)
        found: _File | None = collector.problems.read_or_report("json-unreadable", REMEDY, read, file=str(path))
        if found is not None:
            row = collector.image(image, (found.size.height, found.size.width), file=str(path))
            if row is not None:
                _add(found, row, path, collector)
        if number % 64 == 0:
            progress(number, len(listed))


def _add(found: _File, row: int, path: Path, collector: Collector) -> None:
    place: dict[str, Any] = {"file": str(path)}
    if len(found.objects) > OBJECT_LIMIT:
        collector.problems.error("objects", f"there are more than {OBJECT_LIMIT:,} objects.", REMEDY, **place)
        return
    for number, thing in enumerate(found.objects):
        points = thing.points.exterior if thing.points is not None else []
        if any(len(point) != 2 for point in points):
            message = f"objects[{number}] of '{thing.class_title[:60]}' has unusable points."
            collector.problems.error("outline-format", message, REMEDY, **place)
        elif thing.geometry_type == "polygon":
            collector.outline(row, thing.class_title, points, **place)
        elif thing.geometry_type == "rectangle" and len(points) == 2:
            # Both corners are pixels of the rectangle, as those of Pascal VOC.
            xs, ys = zip(*points)
            collector.box(row, thing.class_title, (min(xs), min(ys), max(xs) + 1, max(ys) + 1), **place)
        elif thing.geometry_type == "bitmap" and thing.bitmap is not None:
            corners = _bitmap_corners(thing.bitmap)
            if corners is None:
                message = f"objects[{number}] of '{thing.class_title[:60]}' has a damaged bitmap."
                collector.problems.error("bitmap", message, REMEDY, **place)
            else:
                collector.box(row, thing.class_title, corners, **place)
        else:
            message = f"objects[{number}] of '{thing.class_title[:60]}' is a {thing.geometry_type[:40]}, without a box."
            collector.problems.warning("shape-without-box", message, "It is not used.", **place)


def _bitmap_corners(bitmap: _Bitmap) -> tuple[float, float, float, float] | None:
    """The box of a mask: where it begins, and its size, from the first bytes of its PNG; None for a damaged one."""
    try:
        packed = base64.b64decode(bitmap.data, validate=True)
        header = read_header(zlib.decompressobj().decompress(packed, _HEADER))
    except (binascii.Error, ValueError, zlib.error, DamagedHeaderError):
        return None
    if header is None or len(bitmap.origin) != 2:
        return None
    (x, y), (height, width) = bitmap.origin, header.size
    return (x, y, x + width, y + height)


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    return read_collected(_parse, source, split, problems, progress)


def _annotation_file(source: Source, split: str, path: str, name: str) -> str:
    folder, _, rest = name.partition("/img/")
    return str(_annotation(source.root / folder, rest))


class SuperviselyWriter:
    """Writes `meta.json`, and `{split}/img/` and `{split}/ann/`. Objects with one outline become polygons.

    A rectangle is written as its first and its last pixel, as it is read; one that is smaller than a pixel has none,
    and becomes a polygon of its corners.
    """

    one_file_an_image = True  # its name is that of the image; but the images must be known as such by their endings

    def __init__(self) -> None:
        self._splits: set[str] = set()
        self._losses = Losses()

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under `img/` of the split's folder."""
        return Destination(f"{split_folder(split)}/img", name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the files of one split; none for an image that is not labelled."""
        count_lost(dataset, losses, crowds=True)
        self._splits.add(split_folder(split))
        self._losses, labelled = losses, dataset.labelled
        folder = out / split_folder(split)
        (folder / "ann").mkdir(parents=True, exist_ok=True)
        for i, place in enumerate(places):
            if labelled[i]:
                path = folder / "ann" / f"{place.name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(_content(dataset, i, losses), ensure_ascii=False), encoding="utf-8")

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes the list of classes."""
        from onelook.draw import class_colour

        if not all(split_word(split) for split in self._splits):
            what = "the division into splits (all datasets are one whole unless each is called as a split)"
            self._losses.add(what, len(self._splits))
        classes = [
            {"title": name, "shape": "any", "color": "#{:02X}{:02X}{:02X}".format(*class_colour(label))}
            for label, name in enumerate(names)
        ]
        text = json.dumps({"classes": classes, "tags": [], "projectType": "images"}, indent=1, ensure_ascii=False)
        (out / "meta.json").write_text(text, encoding="utf-8")


def _content(dataset: Dataset, i: int, losses: Losses) -> dict[str, Any]:
    height, width = dataset.sizes[i].tolist()
    objects, span = [], dataset.span(i)
    boxes, labels = dataset.index.boxes[span].tolist(), dataset.labels(i).tolist()
    for number, (label, (left, top, w, h)) in enumerate(zip(labels, boxes)):
        points = single_outline(dataset, span.start + number, losses)
        kind = "polygon" if points else "rectangle"
        if not points and min(w, h) < 1:
            kind, points = "polygon", [[left, top], [left + w, top], [left + w, top + h], [left, top + h]]
        points = points or [[left, top], [left + w - 1, top + h - 1]]
        shape = {"classTitle": dataset.names[label], "geometryType": kind, "tags": [], "description": ""}
        objects.append({**shape, "points": {"exterior": points, "interior": []}})
    return {"description": "", "tags": [], "size": {"height": height, "width": width}, "objects": objects}


SUPERVISELY = Format(
    name="supervisely",
    title="Supervisely",
    layout="meta.json, and {dataset}/img with {dataset}/ann",
    find=find,
    files_of=_files_of,
    rank=1,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=_annotation_file,
    write=SuperviselyWriter,
    check=check_unlisted,
)
