"""Writes Parquet files as Hugging Face's library `datasets` reads them: `data/{split}-00000-of-00002.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onelook.data.formats.base import Destination, Losses, count_lost, split_folder
from onelook.data.index import CROWD
from onelook.data.members import MAX_FILE, PARQUET, read_image_file
from onelook.data.parquet_file import GROUP_LIMIT, arrow
from onelook.data.split import Dataset
from onelook.errors import DataError, reason_of
from onelook.reporter import Reporter, SilentReporter

SHARD_SIZE = 500_000_000  # bytes, as `datasets` writes
_GROUP_ROWS, _GROUP_BYTES = 100, 2_000_000  # an image is read with its row group, so those are small
_FOLDER = "data"


class ParquetWriter:
    """Writes the files of each split; images are stored in them as they are.

    shard_size: bytes after which a new file begins.  reporter: shows the progress.
    """

    one_file_an_image = False

    def __init__(self, shard_size: int | None = None, reporter: Reporter | None = None) -> None:
        self._shard_size = SHARD_SIZE if shard_size is None else shard_size
        self._reporter = SilentReporter() if reporter is None else reporter
        arrow("Writing Parquet data sets")

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names, in the files of their split."""
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the files of one split."""
        _count_losses(dataset, losses)
        split = split_folder(split)
        (out / _FOLDER).mkdir(exist_ok=True)
        name = "validation" if split == "val" else split  # as the library calls it
        with (
            _Files(out / _FOLDER, name, _schema(dataset.names), self._shard_size) as files,
            self._reporter.progress(f"Writing {split}") as progress,
        ):
            for i, place in enumerate(places):
                files.add(_row(dataset, i, place.name))
                progress(i + 1, len(places))

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes nothing: the classes are in every file."""


class _Files:
    """Parquet files in a folder, of which a new one begins where the next row would make the last one too long.

    Their names hold their number, and so they get them at the end.
    """

    def __init__(self, folder: Path, split: str, schema: Any, size: int) -> None:
        self._folder, self._split, self._schema, self._size = folder, split, schema, size
        self._rows: list[dict[str, Any]] = []
        self._rows_bytes, self._room, self._count = 0, 0, 0
        self._file: Any = None

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row, which is written with its row group."""
        size = len(row["image"]["bytes"])
        if self._file is None or size > self._room:
            self._begin()
        elif len(self._rows) == _GROUP_ROWS or self._rows_bytes + size > _GROUP_BYTES:
            self._flush()
        self._rows.append(row)
        self._rows_bytes += size
        self._room -= size

    def _begin(self) -> None:
        self._end()
        _, parquet = arrow("Writing Parquet data sets")
        self._file = parquet.ParquetWriter(
            self._folder / f"{self._count}.unfinished",
            self._schema,
            compression="none",  # images are compressed already, and boxes are few bytes beside them
            use_dictionary=False,
            write_statistics=False,  # of images they would be images
            write_page_checksum=True,
        )
        self._count += 1
        self._room = self._size

    def _flush(self) -> None:
        pa, _ = arrow("Writing Parquet data sets")
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, self._schema), row_group_size=_GROUP_ROWS)
        self._rows, self._rows_bytes = [], 0

    def _end(self) -> None:
        if self._file is not None:
            self._flush()
            self._file.close()
            self._file = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            if self._file is not None:
                self._file.close()
            return
        if not self._count:  # a split without images is one file without rows
            self._begin()
        self._end()
        for number in range(self._count):
            name = f"{self._split}-{number:05d}-of-{self._count:05d}{PARQUET}"
            (self._folder / f"{number}.unfinished").rename(self._folder / name)


def _schema(names: Sequence[str]) -> Any:
    """The columns, with the features that `datasets` takes for them: an Image, and a ClassLabel of these names."""
    pa, _ = arrow("Writing Parquet data sets")
    objects = {
        "id": ("int64", pa.int64()),
        "bbox": ("float64", pa.list_(pa.float64(), 4)),
        "category": ("int64", pa.int64()),
        "area": ("float64", pa.float64()),
        "iscrowd": ("bool", pa.bool_()),
    }
    numbers = {"image_id": ("int64", pa.int64()), "width": ("int32", pa.int32()), "height": ("int32", pa.int32())}
    features: dict[str, Any] = {name: _value(kind) for name, (kind, _) in objects.items()}
    features["bbox"] = {"feature": features["bbox"], "length": 4, "_type": "Sequence"}
    features["category"] = {"names": list(names), "_type": "ClassLabel"}
    all_features = {
        "image": {"_type": "Image"},
        **{name: _value(kind) for name, (kind, _) in numbers.items()},
        "objects": {"feature": features, "_type": "Sequence"},
    }
    fields = [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *(pa.field(name, kind) for name, (_, kind) in numbers.items()),
        pa.field("objects", pa.struct([(name, pa.list_(kind)) for name, (_, kind) in objects.items()])),
    ]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": all_features}})})


def _value(kind: str) -> Mapping[str, str]:
    return {"dtype": kind, "_type": "Value"}


def _row(dataset: Dataset, i: int, name: str) -> dict[str, Any]:
    """The row of an image. name: of it, in `image.path`."""
    file = dataset.image_file(i)
    try:
        content = read_image_file(file, min(MAX_FILE, GROUP_LIMIT))
    except OSError as error:
        raise DataError(
            f"The image '{file}' cannot be read: {reason_of(error)}.", "`onelook check` lists all that are missing."
        ) from error
    index, row, span = dataset.index, dataset.row(i), dataset.span(i)
    height, width = index.sizes[row].tolist()
    objects = {
        "id": index.annotation_ids[span].tolist(),
        "bbox": index.boxes[span].tolist(),
        "category": dataset.labels(i).tolist(),
        "area": index.areas[span].tolist(),
        "iscrowd": ((index.object_flags[span] & CROWD) > 0).tolist(),
    }
    return {
        "image": {"bytes": content, "path": name},
        "image_id": int(index.image_ids[row]),
        "width": width,
        "height": height,
        "objects": objects if dataset.labelled[i] else None,
    }


def _count_losses(dataset: Dataset, losses: Losses) -> None:
    """Counts what the columns have no place for. Ids of images and objects, areas and crowd marks are kept."""
    own = Losses()
    count_lost(dataset, own, outlines=True)
    kept = ("areas of masks", "image and annotation ids")
    for what, count in own.counts.items():
        if what.startswith("category ids"):
            losses.set(what, count)
        elif not what.startswith(kept):
            losses.add(what, count)
