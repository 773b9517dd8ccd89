"""Open Images: `{split}-annotations-bbox.csv`, class descriptions, and images by id in `{split}/`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from onelook.data.class_names import CLASS_LIMIT
from onelook.data.formats.base import (
    Arrays,
    Destination,
    FilesOf,
    Format,
    Losses,
    Part,
    Source,
    count_class_list,
    count_lost,
    split_folder,
)
from onelook.data.formats.collector import Collector, check_unlisted, files_with_images, read_collected
from onelook.data.formats.csv_columns import add_rows, csv_rows, recognise
from onelook.data.index import CROWD, OCCLUDED, TRUNCATED
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import named_splits, split_word
from onelook.errors import DataError
from onelook.reporter import Progress

_ENDING = "-annotations-bbox.csv"
_BOXES = f"*{_ENDING}"
_MARKS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", *_MARKS)
_FOLDERS = ("", "annotations/", "csv_folder/", "labels/")
_DESCRIPTIONS = ("*class-descriptions*.csv", "*/*class-descriptions*.csv", "*/metadata/classes.csv")


def find(root: Path) -> Source | None:
    """Open Images in a folder, as published, or `{split}/labels/detections.csv` as FiftyOne writes it; else None."""
    for pattern in (*(f"{folder}{_BOXES}" for folder in _FOLDERS), "*/labels/detections.csv"):
        files = {path: recognise(path) for path in sorted(root.glob(pattern))}
        found = [path for path, columns in files.items() if columns is not None and columns.kind == "open images"]
        if not found:
            continue
        parts: dict[str, Part] = {}
        for path in found:
            folder = path.parents[1].name if path.parent.name == "labels" else None
            split = split_word(folder or path.name) or folder or path.name.removesuffix(_ENDING)
            if split in parts:
                raise DataError(f"'{root}' has two files for the split '{split}': '{path}' is one.", "Remove one.")
            parts[split] = Part(path)
        return Source(OPEN_IMAGES, root, root, named_splits(parts))
    return None


def _descriptions(root: Path) -> Path | None:
    found = (path for pattern in _DESCRIPTIONS for path in sorted(root.glob(pattern)) if path.is_file())
    return next(found, None)


def _titles(root: Path) -> dict[str, str] | None:
    """The names of the classes by their codes (`/m/01yrx`); None without a file of descriptions."""
    path = _descriptions(root)
    if path is None:
        return None
    titles: dict[str, str] = {}
    for line, row in csv_rows(path):
        cells = [cell.strip() for cell in row]
        if cells[:1] == ["LabelName"] or not any(cells):
            continue
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"{path}:{line}: expected a code and a name, found {','.join(cells)[:80]!r}.", "Correct it."
            )
        if len(titles) >= CLASS_LIMIT:
            raise DataError(f"{path}:{line}: there are more than {CLASS_LIMIT:,} classes.", "Check the file.")
        titles[cells[0]] = cells[1]
    return titles


def _files_of(source: Source, split: str) -> FilesOf:
    described = _descriptions(source.root)
    files = [source.annotations_of(other) for other in source.parts]
    return files_with_images(source, [*files, *([described] if described is not None else [])])


def _parse(source: Source, split: str, collector: Collector, progress: Progress) -> None:
    path = source.annotations_of(split)
    columns = recognise(path)
    if columns is None:
        raise DataError(f"{path}:1: the columns are not those of Open Images any more.", "Restore the first line.")
    add_rows(path, columns, collector, progress, titles=_titles(source.root))


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    folders = [
        folder
        for name in dict.fromkeys((split, "validation" if split == "val" else split))
        for folder in (name, f"{name}/data", f"images/{name}")
    ]
    return read_collected(_parse, source, split, problems, progress, [*folders, "images"])


class OpenImagesWriter:
    """Writes `{split}-annotations-bbox.csv`, `class-descriptions-boxable.csv`, and the images to `{split}/`.

    An image's id is its name without ending, as in the published files; its whole name, where it is in a folder or
    another image has the same. Crowds are marked IsGroupOf.
    """

    one_file_an_image = True  # it has none; but the ids have no endings

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}
        self._losses = Losses()

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under the split's folder."""
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the rows of one split. DataError for a split without objects, of which there would be no image."""
        count_lost(dataset, losses, outlines=True)
        self._losses = losses
        if not int(dataset.num_objects.sum()):
            raise DataError(
                f"The split '{dataset.split}' has no objects; Open Images lists objects only, so all of its images "
                "would be lost.",
                "Choose another format, such as --to coco.",
            )
        losses.add("images without objects (they are not listed)", int((dataset.num_objects == 0).sum()))
        stems = Counter(_stem(place.name) for place in places)
        with open(out / f"{split_folder(split)}{_ENDING}", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for i, place in enumerate(places):
                plain = "/" not in place.name and stems[_stem(place.name)] == 1
                rows.writerows(self._rows(dataset, i, _stem(place.name) if plain else place.name))

    def _rows(self, dataset: Dataset, i: int, image: str) -> Iterator[tuple[object, ...]]:
        height, width = dataset.sizes[i].tolist()
        index, span = dataset.index, dataset.span(i)
        columns = (index.boxes[span].tolist(), dataset.labels(i).tolist(), index.object_flags[span].tolist())
        for (left, top, w, h), label, flags in zip(*columns):
            code = self._codes.setdefault(dataset.names[label], f"/m/{len(self._codes):06d}")
            corners = (left / width, (left + w) / width, top / height, (top + h) / height)
            marks = (int(flags & bit > 0) for bit in (OCCLUDED, TRUNCATED, CROWD))
            yield (image, "xclick", code, 1, *corners, *marks, 0, 0)

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes the names of the classes that have objects."""
        with open(out / "class-descriptions-boxable.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((code, name) for name, code in self._codes.items())
        count_class_list(names, self._codes, self._losses)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


OPEN_IMAGES = Format(
    name="open_images",
    title="Open Images",
    layout="{split}-annotations-bbox.csv, class-descriptions-boxable.csv, and images in {split}/",
    find=find,
    files_of=_files_of,
    rank=1,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: str(source.annotations_of(split)),
    write=OpenImagesWriter,
    check=check_unlisted,
)
