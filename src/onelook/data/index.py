"""The index of one split: flat NumPy arrays in one file, memory-mapped, so that every process shares its pages.

No Python object exists per image or box. What has a varying length is one long array and an array of
offsets; of outlines, an array of first and last points.

    offset  bytes  content
    0       16     magic and format version
    16      8      when the annotation files were last compared with the index (ns since 1970; the only mutable field)
    24      8      length of the header
    32      4      CRC-32 of the header
    64             header: JSON, with `arrays: {name: [dtype, shape, offset, CRC-32]}`
    ...            the arrays, each on a multiple of 64
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from onelook.data.problems import Problem

FORMAT = 7
MAGIC = b"ONELOOK-INDEX\0" + FORMAT.to_bytes(2, "little")

# name: (dtype, trailing shape). I images, M objects, R outlines (rings), P outline points; bytes are UTF-8.
SCHEMA: dict[str, tuple[str, tuple[int, ...]]] = {
    "image_ids": ("<i8", ()),  # (I,)
    "sizes": ("<i4", (2,)),  # (I, 2) height, width as displayed
    "image_flags": ("|u1", ()),  # (I,) bits below
    "name_offsets": ("<i8", ()),  # (I + 1,) into name_bytes
    "name_bytes": ("|u1", ()),
    "member_places": ("<i8", (3,)),  # (I, 3) shard, first byte, bytes; empty where images are files of their own
    "object_offsets": ("<i8", ()),  # (I + 1,) into the arrays of objects
    "boxes": ("<f8", (4,)),  # (M, 4) left, top, width, height in pixels, as annotated
    "labels": ("<i4", ()),  # (M,)
    "annotation_ids": ("<i8", ()),  # (M,)
    "areas": ("<f8", ()),  # (M,)
    "object_flags": ("|u1", ()),  # (M,) bits below
    "ring_offsets": ("<i8", ()),  # (M + 1,) into ring_spans; empty where the split has no outlines
    "ring_spans": ("<i8", (2,)),  # (R, 2) first point of an outline and first after it; not always in order
    "points": ("<f8", (2,)),  # (P, 2) x, y in pixels
    "image_extra_offsets": ("<i8", ()),  # (I + 1,) or empty: further fields of an image, as JSON
    "image_extra_bytes": ("|u1", ()),
    "object_extra_offsets": ("<i8", ()),  # (M + 1,) or empty: further fields of an object, as JSON
    "object_extra_bytes": ("|u1", ()),
}
LAZY = {name for name in SCHEMA if name.startswith(("ring", "point", "image_extra", "object_extra"))}
"""Arrays that most uses never touch: their checksum is compared when they are first read, not on opening."""

LABELLED, MEASURED = 1, 2  # image flags: annotations exist, be it none; the size was read from the image's file
CROWD, DIFFICULT, TRUNCATED, OCCLUDED = 1, 2, 4, 8  # object flags


class _Meta(msgspec.Struct):
    """What `Index.meta` holds, by type."""

    names: list[str]
    category_ids: list[int]
    category_extras: list[dict[str, Any]] = []
    rest: dict[str, Any] = {}
    notes: list[str] = []
    left_out: list[Problem] = []
    origins: list[tuple[int, int, str, str]] = []
    root: str = ""


class DamagedIndexError(Exception):
    """A file that is no index of this version, or whose content is not what was written. It is built anew."""


class Index:
    """One split's arrays, by attribute. Read-only; `meta` holds what belongs to the split as a whole."""

    image_ids: np.ndarray
    sizes: np.ndarray
    image_flags: np.ndarray
    name_offsets: np.ndarray
    name_bytes: np.ndarray
    member_places: np.ndarray
    object_offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    annotation_ids: np.ndarray
    areas: np.ndarray
    object_flags: np.ndarray

    def __init__(self, arrays: Mapping[str, np.ndarray], meta: dict[str, Any], path: Path | None, digest: str) -> None:
        self._arrays, self.meta, self.path, self.digest = dict(arrays), meta, path, digest
        self._unchecked: dict[str, int] = {}
        for name in SCHEMA.keys() - LAZY:
            setattr(self, name, self._arrays[name])

    def __len__(self) -> int:
        return len(self.image_ids)

    def name(self, row: int) -> str:
        """The image's file name as annotated, with forward slashes, relative to the folder of the images."""
        start, stop = self.name_offsets[row : row + 2].tolist()
        return self.name_bytes[start:stop].tobytes().decode()

    def lazy(self, name: str) -> np.ndarray:
        """One of the arrays in `LAZY`. Raises `DamagedIndexError` where its checksum does not agree."""
        array = self._arrays[name]
        expected = self._unchecked.pop(name, None)
        if expected is not None and zlib.crc32(array.data if array.size else b"") != expected:
            raise DamagedIndexError(f"'{self.path}' is damaged in '{name}'.")
        return array

    def extra(self, kind: str, row: int) -> dict[str, Any]:
        """Further fields of an image or an object (`kind`) that no array holds; {} where there are none."""
        offsets = self.lazy(f"{kind}_extra_offsets")
        if not len(offsets):
            return {}
        start, stop = offsets[row : row + 2].tolist()
        text = self.lazy(f"{kind}_extra_bytes")[start:stop].tobytes()
        return json.loads(text) if text else {}

    def rings(self, row: int) -> tuple[np.ndarray, ...]:
        """The outlines of one object, each (V, 2) float64 pixels."""
        ring_offsets = self.lazy("ring_offsets")
        if not len(ring_offsets):
            return ()
        first, last = ring_offsets[row : row + 2].tolist()
        spans, points = self.lazy("ring_spans")[first:last].tolist(), self.lazy("points")
        return tuple(points[start:stop] for start, stop in spans)


def write_index(path: Path, arrays: Mapping[str, np.ndarray], meta: dict[str, Any], stamp: Mapping[str, Any]) -> None:
    """Writes an index file (not atomically: see `cache.py`). stamp: what the files looked like it was made from."""
    table: dict[str, Any] = {}
    ordered = {name: np.ascontiguousarray(arrays[name], dtype=SCHEMA[name][0]) for name in SCHEMA}
    offset = 0
    for name, array in ordered.items():
        table[name] = [SCHEMA[name][0], list(array.shape), offset, zlib.crc32(array.data if array.size else b"")]
        offset += -(-array.nbytes // 64) * 64
    header = json.dumps({"meta": meta, "stamp": dict(stamp), "arrays": table}).encode()
    base = -(-(64 + len(header)) // 64) * 64
    with open(path, "wb") as file:
        file.write(MAGIC + struct.pack("<qQI", stamp["built"], len(header), zlib.crc32(header)))
        file.seek(64)
        file.write(header)
        for name, array in ordered.items():
            file.seek(base + table[name][2])
            file.write(array.data if array.size else b"")
        file.truncate(base + offset)


def mark_verified(path: Path, when: int) -> None:
    """Notes that the annotation files agreed with the index at this time (ns). Does nothing in a read-only place."""
    try:
        with open(path, "r+b") as file:
            file.seek(16)
            file.write(struct.pack("<q", when))
    except OSError:
        return


def open_index(path: Path) -> Index:
    """Maps an index file after comparing checksums and structure. Raises `DamagedIndexError`, `OSError`."""
    opened = open_if(path, lambda stamp, verified: True)
    assert opened is not None
    return opened[0]


def open_if(path: Path, agrees: Callable[[dict[str, Any], int], bool]) -> tuple[Index, dict[str, Any], int] | None:
    """Opens an index as `open_index` does, if `agrees(stamp, verified)`; else None, and the arrays are not read.

    Returns the index with these two.

    stamp: what the index was written with.  verified: when it was last found to agree with the annotation files (ns).
    """
    with open(path, "rb") as file:
        header, verified, base = _read_header(file)
        if not agrees(header["stamp"], verified):
            return None
        _compare_checksums(file, header["arrays"], base)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    index = _map(memory, header, base, path, _digest(header))
    _check_structure(index)
    return index, header["stamp"], verified


def reopen_index(path: Path, digest: str) -> Index:
    """Maps an index that another process has checked. Raises `DamagedIndexError` if the file is not the same one."""
    with open(path, "rb") as file:
        header, _, base = _read_header(file)
        if _digest(header) != digest:
            raise DamagedIndexError(f"'{path}' was replaced while it was in use.")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _map(memory, header, base, path, digest)


def index_in_memory(arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> Index:
    """An index without a file: for checks, and where nothing at all can be written."""
    ordered = {name: np.ascontiguousarray(arrays[name], dtype=SCHEMA[name][0]) for name in SCHEMA}
    for array in ordered.values():
        array.flags.writeable = False
    return Index(ordered, meta, None, "")


def _read_header(file: Any) -> tuple[dict[str, Any], int, int]:
    """The header, when the index was last found to agree with its files, and where its arrays begin."""
    fixed = file.read(64)
    if len(fixed) < 64 or fixed[:16] != MAGIC:
        raise DamagedIndexError("not an index of this version")
    verified, length, checksum = struct.unpack("<qQI", fixed[16:36])
    size = os.fstat(file.fileno()).st_size
    if length > min(size, 1 << 28):
        raise DamagedIndexError("header longer than the file")
    text = file.read(length)
    if len(text) != length or zlib.crc32(text) != checksum:
        raise DamagedIndexError("damaged header")
    try:
        header = json.loads(text)
        base = -(-(64 + length) // 64) * 64
        if not isinstance(header["meta"], dict):
            raise TypeError
        _check_table(header["arrays"], size, base)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedIndexError("damaged header") from error
    return header, verified, base


def _digest(header: Mapping[str, Any]) -> str:
    """Of what is in an index, not of when it was made: processes that start together may each have made it."""
    import hashlib  # brings OpenSSL, which what only needs the names above should not wait for

    try:
        content = json.dumps([header["meta"], header["arrays"]]).encode()
    except RecursionError as error:
        raise DamagedIndexError("damaged header") from error
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_table(table: dict[str, Any], size: int, base: int) -> None:
    if table.keys() != SCHEMA.keys():
        raise DamagedIndexError("not the arrays of this version")
    for name, (dtype, shape, offset, _) in table.items():
        expected, tail = SCHEMA[name]
        plain = all(isinstance(value, int) and value >= 0 for value in (*shape, offset))
        if not plain or dtype != expected or len(shape) != 1 + len(tail) or tuple(shape[1:]) != tail or offset % 64:
            raise DamagedIndexError(f"array '{name}' is not of this version")
        if base + offset + int(dtype[-1]) * shape[0] * (tail[0] if tail else 1) > size:
            raise DamagedIndexError("the file is cut short")


def _compare_checksums(file: Any, table: dict[str, Any], base: int) -> None:
    """Raises DamagedIndexError if an array's checksum is wrong. Reads through a small buffer, to need little memory."""
    sizes = {name: int(entry[0][-1]) * math.prod(entry[1]) for name, entry in table.items() if name not in LAZY}
    view = memoryview(bytearray(min(max(sizes.values()), 1 << 18)))
    for name, size in sizes.items():
        _, _, offset, expected = table[name]
        left, checksum = size, 0
        file.seek(base + offset)
        while left:
            got = file.readinto(view[: min(left, len(view))])
            if not got:
                raise DamagedIndexError("the file is cut short")
            checksum, left = zlib.crc32(view[:got], checksum), left - got
        if checksum != expected:
            raise DamagedIndexError(f"array '{name}' is damaged")


def _map(memory: mmap.mmap, header: dict[str, Any], base: int, path: Path, digest: str) -> Index:
    arrays = {}
    for name, (dtype, shape, offset, _) in header["arrays"].items():
        count = math.prod(shape)
        flat = np.frombuffer(memory, dtype=dtype, count=count, offset=base + offset) if count else np.zeros(0, dtype)
        arrays[name] = flat.reshape(shape)
    index = Index(arrays, header["meta"], path, digest)
    index._unchecked = {name: entry[3] for name, entry in header["arrays"].items() if name in LAZY}
    return index


def _check_structure(index: Index) -> None:
    """A well-formed file that came with a data set can still be forged: offsets must stay inside."""
    num_images, num_objects = len(index.image_ids), len(index.labels)
    shapes = (len(index.sizes), len(index.image_flags), len(index.name_offsets) - 1, len(index.object_offsets) - 1)
    sides = (len(index.boxes), len(index.annotation_ids), len(index.areas), len(index.object_flags))
    try:
        meta = msgspec.convert(index.meta, _Meta)
    except msgspec.ValidationError as error:
        raise DamagedIndexError("damaged header") from error
    fine = (
        all(count == num_images for count in shapes)
        and all(count == num_objects for count in sides)
        and len(meta.category_ids) == len(meta.names)
        and _ascends(index.name_offsets, len(index.name_bytes))
        and _ascends(index.object_offsets, num_objects)
        and len(index.member_places) in (0, num_images)
        and (not len(index.member_places) or int(np.min(index.member_places)) >= 0)
        and (not num_objects or (index.labels.min() >= 0 and index.labels.max() < len(meta.names)))
    )
    if not fine:
        raise DamagedIndexError("the arrays contradict each other")


def _ascends(offsets: np.ndarray, end: int) -> bool:
    return len(offsets) > 0 and bool(offsets[0] == 0 and offsets[-1] == end and (offsets[1:] >= offsets[:-1]).all())


def now() -> int:
    """Nanoseconds since 1970, the clock of file times."""
    return time.time_ns()
