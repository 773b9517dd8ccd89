"""Parquet files: opened with pyarrow, read in parts of bounded size, and single cells of their column of images.

What is read last stays in memory: the images of two row groups, of at most `GROUP_LIMIT` bytes each.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from onelook.errors import DataError, missing_package

GROUP_LIMIT = 1 << 30  # bytes of the images of a row group: a hundred of ten megabytes, as libraries write them
_ROW_LIMIT = 1 << 20  # rows of a row group
_AT_ONCE = 8  # rows
_STREAM = 1 << 20  # bytes of a column that are read at a time
_KEPT_GROUPS = 2
_REMEDY = "Copy or download the file again, or write it anew."

_kept: OrderedDict[tuple[str, int, int, int], Any] = OrderedDict()  # images by file, its size and time, and row group
_lock = threading.Lock()


def arrow(purpose: str, *, work: str = "") -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`. purpose, work: see `missing_package`, whose error it raises."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing_package("pyarrow", purpose, work=work) from error
    return pyarrow, pyarrow.parquet


def open_parquet(path: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`. Raises `DataError` for what is none, or has a row group of too many rows."""
    try:
        if not os.path.isfile(path):  # opening a pipe would block for ever
            raise DataError(f"'{path}' is not an ordinary file.", _REMEDY)
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    metadata, _ = _facts(path, status.st_size, status.st_mtime_ns)
    return _open(path, metadata)


def _open(path: str, metadata: Any = None) -> Any:
    pa, parquet = arrow("Reading Parquet files")
    try:
        return parquet.ParquetFile(
            path, metadata=metadata, buffer_size=_STREAM, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise damaged(path, error) from error


@lru_cache(maxsize=64)
def _facts(path: str, size: int, time: int) -> tuple[Any, list[int]]:
    """The content of a file's end, and the first row of each row group. size, time: of the file, which may change."""
    with _open(path) as file:
        metadata = file.metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if counts and not 0 <= min(counts) <= max(counts) <= _ROW_LIMIT:
        remedy = "Write it with fewer rows in a group, such as 100."
        raise DataError(f"'{path}' has a row group of {max(counts):,} rows; the limit is {_ROW_LIMIT:,}.", remedy)
    return metadata, [0, *accumulate(counts)]


def damaged(path: str, error: BaseException, group: int | None = None) -> DataError:
    """The error for a file that pyarrow cannot read."""
    where = "" if group is None else f" in row group {group}"
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return DataError(f"'{path}' is no Parquet file, or damaged{where}: {reason}.", _REMEDY)


def batches(path: str, file: Any, group: int, columns: Sequence[str]) -> Iterator[Any]:
    """The rows of a row group, a few at a time, as record batches. Raises `DataError` for a damaged or too large one.

    columns: paths such as `image.bytes`.
    """
    pa, _ = arrow("Reading Parquet files")
    facts = file.metadata.row_group(group)
    size = facts.total_byte_size  # of single columns is not asked: pyarrow ends the process where those are damaged
    total, rows = 0, 0
    try:
        for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=list(columns), use_threads=False):
            total = max(total + batch.nbytes, size)
            if total > GROUP_LIMIT:
                raise DataError(
                    f"Row group {group} of '{path}' has {total:,} bytes or more; the limit is {GROUP_LIMIT:,}.",
                    "Write it with fewer rows in a group, such as 100.",
                )
            rows += batch.num_rows
            yield batch
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise damaged(path, error, group) from error
    if rows != facts.num_rows:
        raise damaged(path, ValueError(f"it has {rows} of {facts.num_rows} rows"), group)


def image_column(schema: Any) -> str | None:
    """The path of the column of the images' bytes, `image.bytes` or `image`; None where there is none."""
    pa, _ = arrow("Reading Parquet files")
    index = schema.get_field_index("image")
    kind = schema.field(index).type if index >= 0 else None
    path = "image"
    if kind is not None and pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        kind, path = (kind.field(place).type if place >= 0 else None), "image.bytes"
    return path if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) else None


def read_cell(path: str, row: int) -> bytes:
    """The bytes of the image in a row of a file. row: from 0.  Raises `DataError` where there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise damaged(path, error) from error
    facts = (path, status.st_size, status.st_mtime_ns)
    with _lock:
        _, starts = _facts(*facts)
        group = bisect_right(starts, row) - 1
        if not 0 <= group < len(starts) - 1:
            raise DataError(f"'{path}' has no row {row}.", _REMEDY)
        key = (*facts, group)
        if key not in _kept:
            while len(_kept) >= _KEPT_GROUPS:  # before the next is read: memory is bounded at every moment
                _kept.popitem(last=False)
            _kept[key] = _images(path, group)
        _kept.move_to_end(key)
        content = _kept[key][row - starts[group]].as_py()
    if content is None:
        raise DataError(f"'{path}' has no image in row {row}.", _REMEDY)
    return bytes(content)


def _images(path: str, group: int) -> Any:
    """The images of a row group as a chunked array."""
    pa, _ = arrow("Reading Parquet files")
    with open_parquet(path) as file:
        column = image_column(file.schema_arrow)
        if column is None:
            raise DataError(f"'{path}' has no column of images.", _REMEDY)
        found = [batch.column(0) for batch in batches(path, file, group, [column])]
    return pa.chunked_array([part.flatten()[0] if pa.types.is_struct(part.type) else part for part in found])
