"""The entries of an uncompressed zip file, as torch writes them, found without unpacking anything.

Everything the file says of itself is checked against the file before it is used: counts, offsets, sizes, overlaps.
Compressed entries are refused: torch stores tensors uncompressed, and what is not unpacked cannot blow up.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from onelook.weights.problems import UnreadableFile, shown

_MOST_ENTRIES = 50_000
_LONGEST_NAME = 1_024
_END = b"PK\x05\x06"
_END_64 = b"PK\x06\x06"
_LOCATOR_64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
_LOCAL = b"PK\x03\x04"
_RESAVE = "torch.save writes such files uncompressed: load it where it was made and save it again."


@dataclass(frozen=True)
class Entry:
    """One stored file: its bytes, and the checksum that the archive gives for them (0: none was computed)."""

    name: str
    data: memoryview
    checksum: int

    def verify(self) -> None:
        """Raises UnreadableFile if the bytes are not those that were written."""
        if self.checksum and zlib.crc32(self.data) != self.checksum:
            raise UnreadableFile(f"its entry '{shown(self.name)}' is damaged (the checksum differs)")


@dataclass(frozen=True)
class _Place:
    name: bytes
    start: int
    end: int
    checksum: int


def read_entries(data: memoryview) -> dict[str, Entry]:
    """All entries by name. Raises UnreadableFile for anything inconsistent, compressed, encrypted, doubled or overlapping."""
    try:
        start, size, count = _directory(data)
        places = _places(data, start, size, count)
    except struct.error as error:
        raise UnreadableFile("its zip directory is damaged") from error
    _check_overlaps(places, start)
    entries: dict[str, Entry] = {}
    for place in places:
        try:
            name = place.name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnreadableFile("its zip directory has a name that is not text") from error
        if name in entries:
            raise UnreadableFile(f"it holds '{shown(name)}' twice")
        entries[name] = Entry(name, data[place.start : place.end], place.checksum)
    return entries


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Where the central directory lies: its start, its size in bytes, its number of entries."""
    tail_start = max(0, len(data) - 22 - 65_535)
    found = bytes(data[tail_start:]).rfind(_END)
    if found < 0:
        raise UnreadableFile("its end is missing: the file is cut off")
    end = tail_start + found
    disk, first, here, count, size, start = struct.unpack_from("<HHHHII", data, end + 4)
    locator = end - 20
    if locator >= 0 and data[locator : locator + 4] == _LOCATOR_64:
        (where,) = struct.unpack_from("<Q", data, locator + 8)
        if where > locator - 56 or data[where : where + 4] != _END_64:
            raise UnreadableFile("its zip directory is damaged")
        wide = struct.unpack_from("<IIQQQQ", data, where + 16)
        narrow = (disk, first, here, count, size, start)
        full = (0xFFFF,) * 4 + (0xFFFF_FFFF,) * 2
        if any(small not in (large, most) for small, large, most in zip(narrow, wide, full)):
            raise UnreadableFile("its zip directory says two things")
        disk, first, here, count, size, start = wide
        end = where
    if disk or first or here != count:
        raise UnreadableFile("it is a part of a zip file split over several")
    if count > _MOST_ENTRIES:
        raise UnreadableFile(f"it claims {count} entries; checkpoints have fewer than {_MOST_ENTRIES}")
    if start + size > end or size < 46 * count or size > (46 + 3 * _LONGEST_NAME) * count:
        raise UnreadableFile("its zip directory does not lie where it says")
    return start, size, count


def _places(data: memoryview, position: int, size: int, count: int) -> list[_Place]:
    end = position + size
    places = []
    for _ in range(count):
        if position + 46 > end or data[position : position + 4] != _ENTRY:
            raise UnreadableFile("its zip directory is damaged")
        flags, method, _time, _date, checksum, packed, unpacked, name_size, extra_size, note_size = struct.unpack_from(
            "<HHHHIIIHHH", data, position + 8
        )
        (local,) = struct.unpack_from("<I", data, position + 42)
        name = bytes(data[position + 46 : position + 46 + name_size])
        extra = bytes(data[position + 46 + name_size : position + 46 + name_size + extra_size])
        position += 46 + name_size + extra_size + note_size
        if position > end or not 0 < name_size <= _LONGEST_NAME:
            raise UnreadableFile("its zip directory is damaged")
        label = shown(name.decode("utf-8", "replace"))
        if flags & 1:
            raise UnreadableFile(f"its entry '{label}' is encrypted", _RESAVE)
        if method != 0:
            raise UnreadableFile(f"its entry '{label}' is compressed", _RESAVE)
        unpacked, packed, local = _wide(extra, unpacked, packed, local)
        if packed != unpacked:
            raise UnreadableFile(f"its entry '{label}' has two sizes")
        start = _data_start(data, local, name)
        if start + packed > len(data):
            raise UnreadableFile(f"its entry '{label}' claims {packed} bytes, more than the file holds")
        places.append(_Place(name, start, start + packed, checksum))
    return places


def _wide(extra: bytes, unpacked: int, packed: int, local: int) -> tuple[int, int, int]:
    """The three numbers, with those that did not fit 32 bits taken from the entry's zip64 field, in its order."""
    values = [unpacked, packed, local]
    missing = [index for index, value in enumerate(values) if value == 0xFFFFFFFF]
    position = 0
    while missing and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if kind == 1 and length >= 8 * len(missing):
            for index, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, position)):
                values[index] = value
            return values[0], values[1], values[2]
        position += length
    return unpacked, packed, local


def _data_start(data: memoryview, local: int, name: bytes) -> int:
    """Where an entry's bytes begin: behind its local header, whose own sizes are not trusted and not needed."""
    if local + 30 > len(data) or data[local : local + 4] != _LOCAL:
        raise UnreadableFile("its zip directory points to a place where no entry is")
    name_size, extra_size = struct.unpack_from("<HH", data, local + 26)
    if bytes(data[local + 30 : local + 30 + name_size]) != name:
        raise UnreadableFile(f"its entry '{shown(name.decode('utf-8', 'replace'))}' has two names")
    return local + 30 + name_size + extra_size


def _check_overlaps(places: list[_Place], directory: int) -> None:
    last = 0
    for place in sorted(places, key=lambda place: place.start):
        if place.start < last or place.end > directory:
            raise UnreadableFile("its entries overlap: it was made to mislead")
        last = max(last, place.end)
