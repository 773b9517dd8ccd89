"""Reads the rows of Parquet files into an index: images with their objects, as lists of values or as structures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onelook.data.class_names import CLASS_LIMIT
from onelook.data.formats.base import Arrays, Source
from onelook.data.formats.shard_reader import SampleReader
from onelook.data.headers import IMAGE_SUFFIXES, usual_ending
from onelook.data.members import MAX_FILE, RowMember
from onelook.data.parquet_file import arrow, batches, damaged, image_column, open_parquet
from onelook.data.paths import plain_name
from onelook.data.problems import Problems
from onelook.data.sizes import size_in_file
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress

CATEGORIES = ("category", "categories", "category_id", "label", "labels")
"""Names of the field of an object's class; the first of them that a file has."""

_KEPT = ("bbox", "id", "area", "iscrowd")
_REMEDY = "Correct the row, or write the file anew."


def category_of(schema: Any, path: str) -> tuple[str, Any]:
    """(name, type) of the field of the objects' classes. Raises `DataError` where `objects` has another layout."""
    pa, _ = arrow("Reading Parquet data sets")
    kind = schema.field("objects").type
    listed = _is_list(pa, kind)
    kind = kind.value_type if listed else kind
    names = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    key = next((key for key in CATEGORIES if key in names), None)
    if key is None or "bbox" not in names:
        raise DataError(
            f"'{path}': 'objects' must have 'bbox' and 'category', in lists or as a list of structures.",
            f"It has: {', '.join(names)[:200] or str(kind)[:200]}.",
        )
    kind = kind.field(names.index(key)).type
    return key, kind if listed or not _is_list(pa, kind) else kind.value_type


def _is_list(pa: Any, kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def read_split(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of a split's index: images in the order of the files, and in them of their rows."""
    if source.names is None:
        source = replace(source, names=_texts(source, problems))
    files, reader = source.parts[split].shards, SampleReader(source, problems)
    for number, path in enumerate(files):
        try:
            for row in _rows(path, problems):
                image, size = row.member(), row.size()
                reader.add_content(number, image, size, row.content, str(image))
        except DataError as error:
            problems.error("parquet-unreadable", error.message, error.remedy or _REMEDY, file=path)
        progress(number + 1, len(files))
    return reader.arrays()


@dataclass(frozen=True)
class _Row:
    """One row with an image. content: as `SampleReader.add_content` takes it."""

    path: str
    number: int
    image: bytes
    name: str | None
    content: dict[str, Any]

    def member(self) -> RowMember:
        """Where the image is; without a name of its own, it is called after the file and the row."""
        name = plain_name(self.name) or f"{os.path.splitext(os.path.basename(self.path))[0]}-{self.number:06d}"
        if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
            name += usual_ending(self.image[: 1 << 16])
        return RowMember(self.path, self.number, len(self.image), name)

    def size(self) -> tuple[int, int] | ImageError:
        """(height, width) of the image, or why it cannot be told."""
        try:
            return size_in_file(io.BytesIO(self.image), f"{self.path}, row {self.number}")
        except ImageError as error:
            return error


def _rows(path: str, problems: Problems) -> Iterator[_Row]:
    """The rows of a file that have an image; the faults of others go to the problems."""
    with open_parquet(path) as file:
        schema = file.schema_arrow
        image = image_column(schema)
        if image is None:
            raise DataError(f"'{path}' has no column 'image' with the bytes of images.", _REMEDY)
        key, _ = category_of(schema, path)
        columns = ["image", "objects", *(name for name in ("image_id", "width", "height") if name in schema.names)]
        number = -1
        for group in range(file.metadata.num_row_groups):
            for batch in batches(path, file, group, columns):
                for values in _plain(batch, path, group):
                    number += 1
                    found = _row(path, number, values, key, problems)
                    if found is not None:
                        yield found


def _plain(batch: Any, path: str, group: int) -> list[dict[str, Any]]:
    """The rows of a batch as Python values; a text that is not UTF-8 is damage."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        raise damaged(path, error, group) from error
    return rows


def _row(path: str, number: int, values: dict[str, Any], key: str, problems: Problems) -> _Row | None:
    place = {"file": f"{path}, row {number}"}
    image = values["image"]
    given = image if isinstance(image, dict) else {"bytes": image}
    content, name = given.get("bytes"), given.get("path")
    if content is None:
        what = f"only the path {str(name)[:80]!r}" if name else "nothing"
        remedy = "Store the images' bytes in the file: with `datasets`, push_to_hub does."
        problems.error("image-missing", f"'image' has {what}, not the bytes of an image.", remedy, **place)
        return None
    if len(content) > MAX_FILE:
        problems.error("image-unreadable", f"The image has {len(content):,} bytes, too many.", _REMEDY, **place)
        return None
    fields = {name: values[name] for name in ("width", "height") if values.get(name) is not None}
    fields |= {"id": values.get("image_id")}
    try:
        objects = _objects(values["objects"], key)
    except ValueError as error:
        problems.error("not-a-list", f"{error}.", _REMEDY, **place)
        objects = []
    return _Row(path, number, content, name, fields if objects is None else fields | {"annotations": objects})


def _objects(given: Any, key: str) -> list[dict[str, Any]] | None:
    """The objects of a row as COCO's entries; None for an image that is not annotated. Raises `ValueError`."""
    if given is None:
        return None
    if isinstance(given, dict):
        wanted = {name: values for name, values in given.items() if name in {*_KEPT, key} and values is not None}
        lengths = {name: len(values) if isinstance(values, list) else -1 for name, values in wanted.items()}
        if len(set(lengths.values())) > 1 or -1 in lengths.values():
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"the lists in 'objects' must have the same length, not {shown}")
        count = next(iter(lengths.values()), 0)
        given = [{name: values[place] for name, values in wanted.items()} for place in range(count)]
    return [_entry(one, key) for one in given if one is not None]


def _entry(given: dict[str, Any], key: str) -> dict[str, Any]:
    entry = {name: given[name] for name in _KEPT if given.get(name) is not None}
    if "iscrowd" in entry:
        entry["iscrowd"] = int(entry["iscrowd"]) if isinstance(entry["iscrowd"], bool) else entry["iscrowd"]
    category = given.get(key)
    return entry | {"category" if isinstance(category, str) else "category_id": category}


def _texts(source: Source, problems: Problems) -> tuple[str, ...] | None:
    """The class names that the objects of all splits have, in alphabetical order; None without any object."""
    names: set[str] = set()
    for path in (path for part in source.parts.values() for path in part.shards):
        try:
            names |= _texts_in(path)
        except DataError:
            continue  # reported where the split is read
    if len(names) > CLASS_LIMIT:
        raise DataError(f"'{source.root}' has more than {CLASS_LIMIT:,} classes.", "Check the column of categories.")
    return tuple(sorted(names)) or None


def _texts_in(path: str) -> set[str]:
    found: set[str] = set()
    with open_parquet(path) as file:
        key, _ = category_of(file.schema_arrow, path)
        for group in range(file.metadata.num_row_groups):
            for batch in batches(path, file, group, _category_columns(file, key)):
                for values in batch.to_pylist():
                    found |= _names_in(values["objects"], key)
                if len(found) > CLASS_LIMIT:
                    return found
    return found


def _category_columns(file: Any, key: str) -> Sequence[str]:
    """The path of the column of categories, as the file calls its levels."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    return [path for path in paths if path.startswith("objects.") and key in path.split(".")]


def _names_in(objects: Any, key: str) -> set[str]:
    given = objects.get(key) if isinstance(objects, dict) else [one.get(key) for one in objects or () if one]
    return {name for name in given or () if isinstance(name, str) and name.strip()}
