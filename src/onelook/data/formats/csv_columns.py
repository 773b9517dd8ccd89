"""The columns of CSV annotations: those of Open Images, of RetinaNet, of AutoML, and with a line of names."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelook.data import index as bits
from onelook.data.formats.bounded_xml import REMEDY
from onelook.data.formats.collector import Collector, read_number
from onelook.data.paths import is_image
from onelook.data.split_names import WHOLE
from onelook.errors import DataError, reason_of
from onelook.reporter import Progress

LINE_LIMIT = 1 << 16  # characters of one line
_STEP = 1 << 14  # lines between two reports of progress

OPEN_IMAGES = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "image": ("filename", "file_name", "image", "image_path", "path", "image_id", "file", "image_name"),
    "class": ("class", "label", "class_name", "name", "category"),
    "x1": ("xmin", "x_min", "x1", "left"),
    "y1": ("ymin", "y_min", "y1", "top"),
    "x2": ("xmax", "x_max", "x2", "right"),
    "y2": ("ymax", "y_max", "y2", "bottom"),
}
_SIZE = {"width": ("width", "image_width", "img_width"), "height": ("height", "image_height", "img_height")}
_SET = {
    "TRAIN": "train",
    "TRAINING": "train",
    "VALIDATION": "val",
    "VALIDATE": "val",
    "TEST": "test",
    "UNASSIGNED": WHOLE,
}
_AUTOML_COLUMNS = (9, 11)  # of a row: set, path, label, and four corners, of which two may be empty, the last left out


@dataclass(frozen=True)
class Columns:
    """Where the values of a row are.

    kind: "open images", "retinanet", "automl" or "named".  first: the first line with data.  of: the column of each
    value, for the kinds that have a line of names.
    """

    kind: str
    first: int
    of: Mapping[str, int]

    @property
    def fractions(self) -> bool:
        """Whether boxes are fractions of the image."""
        return self.kind in ("open images", "automl")


def recognise(path: Path) -> Columns | None:
    """The columns of a CSV file by its first row; None where it holds something else, or cannot be read."""
    try:
        _, first = next(csv_rows(path), (0, []))
    except DataError:
        return None
    cells = [cell.strip() for cell in first]
    if set(OPEN_IMAGES) <= set(cells):
        return Columns("open images", 2, {name: cells.index(name) for name in cells})
    words = [cell.lower() for cell in cells]
    of = {key: words.index(found) for key, known in _WORDS.items() if (found := _first(words, known))}
    if len(of) == len(_WORDS):
        of |= {key: words.index(found) for key, known in _SIZE.items() if (found := _first(words, known))}
        return Columns("named", 2, of)
    if len(cells) in _AUTOML_COLUMNS and cells[0] in _SET and cells[1]:
        return Columns("automl", 1, {})
    is_box = len(cells) == 6 and all(read_number(cell) is not None for cell in cells[1:5]) and cells[5]
    if len(cells) == 6 and is_image(cells[0]) and (is_box or not any(cells[1:])):
        return Columns("retinanet", 1, {})
    return None


def _first(words: Sequence[str], known: Sequence[str]) -> str | None:
    return next((word for word in known if word in words), None)


def csv_rows(path: Path, progress: Progress | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a CSV file. Raises `DataError` for a line that is too long, and for what is no text."""
    try:
        if not path.is_file():  # opening a pipe would block for ever
            raise DataError(f"'{path}' is not an ordinary file.", "Replace it by a file.")
        with open(path, encoding="utf-8-sig", newline="") as file:
            size = os.fstat(file.fileno()).st_size

            def lines() -> Iterator[str]:
                number = 0
                while line := file.readline(LINE_LIMIT):
                    number += 1
                    if len(line) == LINE_LIMIT:
                        raise DataError(f"{path}:{number}: the line is longer than {LINE_LIMIT:,} characters.", REMEDY)
                    if "\0" in line:
                        raise DataError(f"{path}:{number}: the line holds a zero byte.", REMEDY)
                    yield line

            reader = csv.reader(lines())
            read = 0
            for row in reader:
                read += sum(map(len, row)) + len(row)
                if progress is not None and reader.line_num % _STEP == 0:
                    progress(min(read, size), size)
                yield reader.line_num, row
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {reason_of(error)}.", "Check the file.") from error
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not a text file.", "It must hold UTF-8 text.") from None
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV: {error}.", REMEDY) from None


def sets_of(path: Path) -> list[str]:
    """The splits that the first column of an AutoML file names, in the order of first mention."""
    return list(dict.fromkeys(split for _, row in csv_rows(path) if (split := _set_of(row)) is not None))


def _set_of(row: Sequence[str]) -> str | None:
    return _SET.get(row[0].strip().upper()) if row else None


def add_rows(
    path: Path,
    columns: Columns,
    collector: Collector,
    progress: Progress,
    *,
    split: str | None = None,
    titles: Mapping[str, str] | None = None,
) -> None:
    """Adds the images and objects of a file.

    split: of an AutoML file, whose rows of other sets are passed over.  titles: names of the classes by what the file
    calls them, None where it has the names.
    """
    for line, row in csv_rows(path, progress):
        if line < columns.first or not any(cell.strip() for cell in row):
            continue
        place = {"file": str(path), "line": line}
        if columns.kind == "automl":
            found = _set_of(row)
            if found is None or len(row) not in _AUTOML_COLUMNS:
                message = f"expected a set (TRAIN, VALIDATION, TEST) and 9 or 11 columns, found {','.join(row)[:80]!r}."
                collector.problems.error("csv-row", message, REMEDY, **place)
            elif split in (found, None):
                _add_automl(row, collector, place)
        elif columns.kind == "retinanet":
            _add_retinanet(row, collector, place)
        elif len(row) <= max(columns.of.values()):
            message = f"the row has {len(row)} columns, fewer than the first line."
            collector.problems.error("csv-row", message, REMEDY, **place)
        elif columns.kind == "named":
            _add_named(row, columns.of, collector, place)
        else:
            _add_open_images(row, columns.of, collector, place, titles)


def _add_retinanet(row: Sequence[str], collector: Collector, place: Mapping[str, Any]) -> None:
    if len(row) != 6:
        message = f"expected path,x1,y1,x2,y2,class, found {len(row)} columns."
        collector.problems.error("csv-row", message, REMEDY, **place)
        return
    image = collector.image(row[0], **place)
    if image is not None and any(cell.strip() for cell in row[1:]):  # a path alone is an image without objects
        collector.box(image, row[5], row[1:5], **place)


def _add_named(row: Sequence[str], of: Mapping[str, int], collector: Collector, place: Mapping[str, Any]) -> None:
    size = (row[of["height"]], row[of["width"]]) if {"height", "width"} <= of.keys() else (None, None)
    image = collector.image(row[of["image"]], size, **place)
    values = [row[of[key]] for key in ("x1", "y1", "x2", "y2", "class")]
    if image is not None and any(value.strip() for value in values):
        collector.box(image, values[4], values[:4], **place)


def _add_automl(row: Sequence[str], collector: Collector, place: Mapping[str, Any]) -> None:
    name = row[1].strip()
    image = collector.image(name.partition("://")[2] or name, **place)
    if image is None or not any(cell.strip() for cell in row[2:]):
        return
    pairs = [pair for pair in zip(row[3::2], row[4::2]) if any(cell.strip() for cell in pair)]
    corners: tuple[object, ...] = (*pairs[0], *pairs[-1]) if len(pairs) > 1 else (*row[3:5], *row[7:9])
    xs, ys = (
        [number for cell in cells if (number := read_number(cell)) is not None] for cells in (row[3::2], row[4::2])
    )
    if len(pairs) > 2 and len(xs) == len(ys) == len(pairs):  # all corners, from any of them on
        corners = (min(xs), min(ys), max(xs), max(ys))
    collector.box(image, row[2], corners, fractions=True, **place)


def _add_open_images(
    row: Sequence[str],
    of: Mapping[str, int],
    collector: Collector,
    place: Mapping[str, Any],
    titles: Mapping[str, str] | None,
) -> None:
    image = collector.image(row[of["ImageID"]].strip(), **place)
    if image is None:
        return
    label = row[of["LabelName"]].strip()
    if titles is not None and label not in titles:
        message = f"the class '{label[:60]}' is not in the file of class descriptions."
        collector.problems.error("unknown-category", message, "Add it there, or correct it.", **place)
        return
    flags = 0
    for column, bit in (("IsGroupOf", bits.CROWD), ("IsOccluded", bits.OCCLUDED), ("IsTruncated", bits.TRUNCATED)):
        flags |= bit if column in of and row[of[column]].strip() == "1" else 0
    corners = [row[of[key]] for key in ("XMin", "YMin", "XMax", "YMax")]
    collector.box(image, titles[label] if titles else label, corners, fractions=True, flags=flags, **place)
