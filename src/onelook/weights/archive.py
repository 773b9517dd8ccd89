"""The entries of an uncompressed zip file, as torch writes them, found without unpacking anything.

`zipfile` reads the directory, from which at most a few megabytes are taken. What it does not do is done here: entries
are slices of the memory map, none is compressed (torch stores tensors as they are, and what is not unpacked cannot blow
up), and no two share bytes.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise

from onelook.weights.problems import UnreadableFile, printable

_LARGEST_DIRECTORY = 4_000_000  # bytes; 700 tensors take 50,000, and each entry becomes an object of `zipfile`
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
            raise UnreadableFile(f"its entry '{printable(self.name)}' is damaged (the checksum differs)")


class _View(io.RawIOBase):
    """The mapped file as `zipfile` wants to read it, a bounded part at a time."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        if start + offset < 0:
            raise UnreadableFile("its zip directory does not lie where it should")
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start, end = self._position, len(self._data) if size < 0 else min(self._position + size, len(self._data))
        if max(size, end - start) > _LARGEST_DIRECTORY:
            raise UnreadableFile(f"its zip directory claims {max(size, end - start)} bytes, more than any checkpoint's")
        self._position = max(start, end)
        return bytes(self._data[start:end])


def read_entries(data: memoryview) -> dict[str, Entry]:
    """All entries by name. Raises UnreadableFile for what is inconsistent, compressed, encrypted or doubled."""
    try:
        with zipfile.ZipFile(_View(data)) as archive:
            listed, directory = archive.infolist(), archive.start_dir
            end = len(data) - 22 - len(archive.comment)
            count, size, start = struct.unpack_from("<HII", data, end + 10)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, EOFError, struct.error) as error:
        raise UnreadableFile(f"its zip directory is damaged or cut off ({printable(error)})") from error
    # What does not fit 16 or 32 bits is all ones there, and stands in a second record.
    fits = size == 0xFFFFFFFF or directory + size <= end
    if count not in (len(listed), 0xFFFF) or start not in (directory, 0xFFFFFFFF) or not fits:
        raise UnreadableFile("its zip directory contradicts what the end of the file says of it")
    entries: dict[str, Entry] = {}
    places = [(directory, directory)]
    for info in listed:
        start = _data_start(data, info)
        places.append((info.header_offset, start + info.file_size))
        if info.orig_filename in entries:
            raise UnreadableFile(f"it holds '{printable(info.orig_filename)}' twice")
        entries[info.orig_filename] = Entry(info.orig_filename, data[start : start + info.file_size], info.CRC)
    places.sort()
    if any(end > following for (_, end), (following, _) in pairwise(places)) or places[-1][1] > directory:
        raise UnreadableFile("its entries overlap: it was made to mislead")
    return entries


def _data_start(data: memoryview, info: zipfile.ZipInfo) -> int:
    """The position of an entry's first byte, behind its local header."""
    label = printable(info.orig_filename)
    if info.flag_bits & 1:
        raise UnreadableFile(f"its entry '{label}' is encrypted", _RESAVE)
    if info.compress_type != zipfile.ZIP_STORED:
        raise UnreadableFile(f"its entry '{label}' is compressed", _RESAVE)
    if info.compress_size != info.file_size:
        raise UnreadableFile(f"its entry '{label}' has two sizes")
    local = info.header_offset
    if local < 0 or local + 30 > len(data) or data[local : local + 4] != _LOCAL:
        raise UnreadableFile(f"its entry '{label}' is not where the directory places it")
    flags, *_, name_size, extra_size = struct.unpack_from("<2xH18xHH", data, local + 4)
    name = bytes(data[local + 30 : local + 30 + name_size])
    if name != info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437"):
        raise UnreadableFile(f"its entry '{label}' has two names")
    return local + 30 + name_size + extra_size
