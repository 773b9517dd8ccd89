"""CSV: one row an object, with the columns of RetinaNet, AutoML or Open Images, or with a line that names them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from onelook.data.class_names import unique_names
from onelook.data.formats.base import (
    UNLABELLED,
    Arrays,
    Destination,
    Format,
    Losses,
    Part,
    Source,
    count_lost,
    split_folder,
)
from onelook.data.formats.collector import Collector, annotations_and_images, check_unlisted, in_splits, read_collected
from onelook.data.formats.csv_columns import add_rows, csv_rows, recognise, sets_of
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import named_splits
from onelook.errors import DataError
from onelook.reporter import Progress

_CLASS_FILES = ("classes.csv", "class.csv", "class_mapping.csv", "labels.csv")
_BOXES = "-annotations-bbox.csv"  # the file of Open Images, a format of its own
_COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def find(root: Path) -> Source | None:
    """CSV in a folder: `*.csv`, `annotations/*.csv`, or `{split}/*.csv`; None where no file has known columns."""
    for pattern in ("*.csv", "annotations/*.csv", "*/*.csv"):
        files = [path for path in sorted(root.glob(pattern)) if path.is_file() and not path.name.endswith(_BOXES)]
        known = [path for path in files if not path.name.startswith(".") and recognise(path) is not None]
        if pattern == "*/*.csv":
            known = in_splits(known)
        if known:
            return _source(known, root, root)
    return None


def find_file(path: Path) -> Source | None:
    """The data set of one file; raises `DataError` where its columns are not known."""
    if path.suffix.lower() != ".csv":
        return None
    if recognise(path) is None:
        columns = "; ".join((",".join(_COLUMNS), "path,x1,y1,x2,y2,class", "set,path,label,x1,y1,,,x2,y2,,"))
        raise DataError(f"{path}:1: the columns are not known.", f"Known are, among others: {columns}.")
    return _source([path], path.parent, path)


def _source(files: Sequence[Path], root: Path, described_by: Path) -> Source:
    parts: dict[str, Part] = {}
    for path in files:
        columns = recognise(path)
        splits = sets_of(path) if columns is not None and columns.kind == "automl" else []
        inside = path.parent != root and path.parent.name != "annotations"
        for split in splits or [path.parent.name if inside else path.stem]:
            if split in parts:
                raise DataError(f"'{root}' has several files for the split '{split}'.", f"Give one, such as '{path}'.")
            parts[split] = Part(path)
    names, file = _class_names(root)
    return Source(CSV, root, described_by, named_splits(parts), names, names_file=file)


def _class_names(root: Path) -> tuple[tuple[str, ...] | None, Path | None]:
    """The classes of a file `class,number`, as RetinaNet has it, and the file; None where there is none."""
    for name in _CLASS_FILES:
        if not (root / name).is_file():
            continue
        rows = [row for _, row in csv_rows(root / name) if row]
        if rows and all(len(row) == 2 and row[1].strip().isdecimal() for row in rows):
            ordered = sorted(rows, key=lambda row: int(row[1].strip()[:9]))
            return unique_names(tuple(row[0].strip() for row in ordered), root / name), root / name
    return None, None


def _parse(source: Source, split: str, collector: Collector, progress: Progress) -> None:
    path = source.annotations_of(split)
    columns = recognise(path)
    if columns is None:
        raise DataError(f"{path}:1: the columns are not known any more.", "Restore the first line.")
    add_rows(path, columns, collector, progress, split=split)


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    path = source.annotations_of(split)
    own = [] if path.parent == source.root else [path.parent.name, f"{path.parent.name}/images"]
    return read_collected(_parse, source, split, problems, progress, [*own, split, f"images/{split}", "images"])


class CsvWriter:
    """Writes `{split}/_annotations.csv` beside the images of each split, and the classes to `classes.csv`."""

    one_file_an_image = False

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under the split's folder."""
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the rows of one split; an image without objects has one row without a box."""
        count_lost(dataset, losses, crowds=True, outlines=True)
        losses.add(UNLABELLED, int((~dataset.labelled).sum()))
        (out / split_folder(split)).mkdir(exist_ok=True)
        with open(out / split_folder(split) / "_annotations.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for i, place in enumerate(places):
                height, width = dataset.sizes[i].tolist()
                boxes = dataset.index.boxes[dataset.span(i)].tolist()
                for label, (left, top, w, h) in zip(dataset.labels(i).tolist(), boxes):
                    name = dataset.names[label]
                    rows.writerow((place.name, width, height, name, left, top, left + w, top + h))
                if not boxes:
                    rows.writerow((place.name, width, height, "", "", "", "", ""))

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes the list of classes."""
        with open(out / "classes.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((name, number) for number, name in enumerate(names))


CSV = Format(
    name="csv",
    title="CSV",
    layout="*.csv or {split}/*.csv with the columns of RetinaNet, AutoML or Open Images, or with a line of names",
    find=find,
    find_file=find_file,
    files_of=annotations_and_images,
    rank=1,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: str(source.annotations_of(split)),
    write=CsvWriter,
    check=check_unlisted,
)
