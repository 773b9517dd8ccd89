"""Open Images: `{split}-annotations-bbox.csv`, class descriptions, and images by id in `{split}/`."""

from __future__ import annotations

from pathlib import Path

from onelook.data.class_names import CLASS_LIMIT
from onelook.data.formats.base import Arrays, FilesOf, Format, Part, Source
from onelook.data.formats.collector import Collector, check_unlisted, files_with_images, read_collected
from onelook.data.formats.csv_columns import add_rows, csv_rows, recognise
from onelook.data.problems import Problems
from onelook.data.split_names import named_splits, split_word
from onelook.errors import DataError
from onelook.reporter import Progress

_BOXES = "*-annotations-bbox.csv"
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
            split = split_word(path.parents[1].name if path.parent.name == "labels" else path.name) or path.stem
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
    check=check_unlisted,
)
