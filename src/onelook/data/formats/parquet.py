"""Parquet as Hugging Face's library `datasets` lays object detection out: a row an image, with its bytes and objects.

The index remembers the row of every image, so that images are read in any order, a row group at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from onelook.data.class_names import CLASS_LIMIT, first_names, unique_names
from onelook.data.formats.base import FilesOf, Format, Part, Source
from onelook.data.formats.parquet_reader import CATEGORIES, category_of, read_split
from onelook.data.formats.parquet_writer import ParquetWriter
from onelook.data.members import PARQUET
from onelook.data.parquet_file import arrow, image_column, open_parquet
from onelook.data.split_names import named_splits, split_word
from onelook.errors import DataError

_NAME_FILES = ("classes.txt", "labels.txt", "names.txt")
_SHARD = re.compile(r"-(\d{1,9})-of-(\d{1,9})$")
_DETECTIONS = {"source", "boxes", "scores", "labels"}  # columns of what `detect --on` writes
_LAYOUT = "image (bytes, path) and objects (bbox, category)"


def find(root: Path) -> Source | None:
    """The data set of a folder's Parquet files; None where there is none with the columns of one.

    Looked for are `data/*.parquet`, `*.parquet` and `{split}/*.parquet`.
    """
    for pattern in ("data/*", "*", "*/*"):
        files = [path for path in sorted(root.glob(pattern + PARQUET)) if path.is_file() and path.name[0] != "."]
        if pattern == "*/*":
            files = [path for path in files if split_word(path.parent.name)]
        known = [path for path in files if _is_data(path)]
        if known:
            return _source(known, root, root)
    return None


def find_file(path: Path) -> Source | None:
    """The data set of one Parquet file; raises `DataError` where it has other columns."""
    if path.suffix != PARQUET:
        return None
    if not _is_data(path):
        with open_parquet(str(path)) as file:
            columns = ", ".join(file.schema_arrow.names[:12])[:200]
        raise DataError(f"'{path}' has the columns {columns or '(none)'}.", f"A data set has the columns {_LAYOUT}.")
    return _source([path], path.parent, path)


def _is_data(path: Path) -> bool:
    """Whether a file has the columns of a data set. Raises `DataError` for detections."""
    arrow("Reading Parquet data sets")
    with open_parquet(str(path)) as file:
        schema = file.schema_arrow
    if set(schema.names) >= _DETECTIONS:
        raise DataError(
            f"'{path}' holds detections that `onelook detect --on` wrote, not a data set.",
            f"Name a data set; one in Parquet has the columns {_LAYOUT}.",
        )
    return image_column(schema) is not None and "objects" in schema.names


def _source(files: Sequence[Path], root: Path, described_by: Path) -> Source:
    splits: dict[str, list[Path]] = {}
    for path in files:
        stem = _SHARD.sub("", path.stem)
        inside = path.parent.name if path.parent not in (root, root / "data") else ""
        splits.setdefault(inside if inside and not split_word(stem) else stem, []).append(path)
    parts = {split: Part(shards=tuple(map(str, paths))) for split, paths in splits.items()}
    names = _class_names(files) or first_names(root, _NAME_FILES)
    if names is None:
        _check_texts(files, root)
    return Source(PARQUET_FILES, root, described_by, named_splits(parts), names, notes=_missing(splits, described_by))


def _missing(splits: dict[str, list[Path]], described_by: Path) -> tuple[str, ...]:
    """What to say of files that the names of others announce (`train-00000-of-00002`) and that are not there."""
    notes = []
    for split, paths in splits.items():
        found = [match for path in paths if (match := _SHARD.search(path.stem)) is not None]
        total = max((int(match[2]) for match in found), default=0)
        if len(found) < total and described_by.is_dir():
            notes.append(f"of the {total} Parquet files that the names of '{split}' announce, {len(found)} are there")
    return tuple(notes)


def _class_names(files: Iterable[Path]) -> tuple[str, ...] | None:
    """The names of the ClassLabel in the files' metadata; None without. Raises `DataError` where files disagree."""
    names: tuple[str, ...] | None = None
    for path in files:
        with open_parquet(str(path)) as file:
            text = (file.schema_arrow.metadata or {}).get(b"huggingface")
        found = None if text is None else _labels_in(text, path)
        if found is not None and names is not None and found != names:
            message = f"'{path}' has other class names than the files before it, or the same in another order."
            raise DataError(message, "Write the files with the same features.")
        names = names or found
    return names


def _labels_in(text: bytes, path: Path) -> tuple[str, ...] | None:
    """The class names in the JSON that `datasets` adds to a schema."""
    try:
        node = json.loads(text)["info"]["features"]["objects"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    for _ in range(8):  # Sequence and List wrap a feature, older files as a list of one
        if isinstance(node, list):
            node = node[0] if node else None
        elif isinstance(node, dict) and node.get("_type") == "ClassLabel":
            break
        elif isinstance(node, dict):
            inner = next((node[key] for key in CATEGORIES if key in node), None)
            node = inner if inner is not None else node.get("feature")
    names = node.get("names") if isinstance(node, dict) else None
    if not isinstance(names, list) or not 0 < len(names) <= CLASS_LIMIT:
        return None
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"'{path}': the class names in its metadata must be texts.", "Write it with other features.")
    return unique_names(tuple(name.strip() for name in names), path)


def _check_texts(files: Iterable[Path], root: Path) -> None:
    """Raises `DataError` for categories that are numbers, which nothing names."""
    pa, _ = arrow("Reading Parquet data sets")
    for path in files:
        with open_parquet(str(path)) as file:
            key, kind = category_of(file.schema_arrow, str(path))
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"'{path}': 'objects.{key}' holds numbers, and nothing says which classes they are.",
                f"Name the classes in {root / _NAME_FILES[0]}, one a line from number 0, or write the file with a "
                "ClassLabel in its features.",
            )


def _files_of(source: Source, split: str) -> FilesOf:
    """The files of all splits, since their classes are one list, and what names the classes."""
    yield json.dumps([split, source.names]), ""
    for part in source.parts.values():
        for path in part.shards:
            yield path.removeprefix(f"{source.root}/"), path


PARQUET_FILES = Format(
    name="parquet",
    title="Parquet",
    layout="data/{split}-*.parquet or *.parquet with the columns image and objects",
    find=find,
    find_file=find_file,
    files_of=_files_of,
    read=read_split,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: path,
    write=ParquetWriter,
    write_options=("shard_size", "reporter"),
    stores_images=True,
    has_ids=True,
    lists_images=True,
    rank=2,
)
