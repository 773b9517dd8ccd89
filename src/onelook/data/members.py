"""Images inside tar and Parquet files ("shards"): where they are, and how their bytes are read, without unpacking.

An image file is a path, or a `Member` of a shard; what reads images takes both.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.errors import DataError, ImageError, reason_of

if TYPE_CHECKING:
    from onelook.data.index import Index

MAX_FILE = 2 << 30  # bytes: more than an uncompressed 16-bit image at the limit of pixels
PARQUET = ".parquet"  # the ending of files whose members are rows


@dataclass(frozen=True)
class Member:
    """A file inside a tar file.

    shard: path or URL of the tar file.  start, size: which of its bytes.  name: in the tar file.
    """

    shard: str
    start: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Its bytes from `start` to before `stop`; None is its end. Raises `ImageError` naming shard and member."""
        stop = self.size if stop is None else min(stop, self.size)
        if not 0 <= start <= stop <= MAX_FILE:
            raise ImageError(f"'{self}' has {self.size:,} bytes, more than any image.", "Take it out of the shard.")
        try:
            data = self._bytes(start, stop)
        except DataError as error:
            raise ImageError(f"'{self}': {error.message}", error.remedy) from error
        except OSError as error:
            raise ImageError(f"'{self}' cannot be read: {reason_of(error)}.", "Check the shard.") from error
        if len(data) != stop - start:
            raise ImageError(f"'{self}' is cut short: the shard ends before.", "Copy or download the shard again.")
        return data

    def _bytes(self, start: int, stop: int) -> bytes:
        return _read(self.shard, self.start + start, self.start + stop)

    def open(self) -> MemberFile:
        """A stream of its bytes; each read is one of the shard."""
        return MemberFile(self)


class RowMember(Member):
    """The image of a row of a Parquet file, which is `shard`. start: the row, from 0.  size: bytes of the image."""

    def __str__(self) -> str:
        return f"{self.shard}, row {self.start}"

    def _bytes(self, start: int, stop: int) -> bytes:
        from onelook.data.parquet_file import read_cell  # what reads other images does not load it

        content = read_cell(self.shard, self.start)
        if len(content) != self.size:
            raise DataError(f"it has {len(content):,} bytes, no longer {self.size:,}.", "Start again; it has changed.")
        return content[start:stop]


ImageFile = str | Member


class MemberFile(io.RawIOBase):
    """The bytes of a member as a file that can be read at any place."""

    def __init__(self, member: Member) -> None:
        self.member, self._place = member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.member.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        stop = min(self._place + len(view), self.member.size)
        data = self.member.read(self._place, stop) if stop > self._place else b""
        view[: len(data)] = data
        self._place += len(data)
        return len(data)


def _read(shard: str, start: int, stop: int) -> bytes:
    if ":/" in shard:  # else it is no URL, and nothing that reads them is loaded
        from onelook.data.remote import read_range, url_of

        if (url := url_of(shard)) is not None:
            return read_range(url, start, stop)
    with open(shard, "rb", buffering=0) as file:
        file.seek(start)
        parts = []
        while start < stop and (part := file.read(stop - start)):
            parts.append(part)
            start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def image_file(index: Index, row: int, root: Path, shards: Sequence[str]) -> ImageFile:
    """Where the image of a row is. root: the folder that names are relative to.  shards: of the split, in order."""
    name = index.name(row)
    if not len(index.member_places):
        return os.path.join(root, name)
    shard, start, size = index.member_places[row].tolist()
    kind = RowMember if shards[shard].endswith(PARQUET) else Member
    return kind(shards[shard], start, size, name)


def read_image_file(file: ImageFile, limit: int) -> bytes:
    """All bytes of an image file. Raises `ImageError` for one of more than `limit` bytes, and `OSError`."""
    size = file.size if isinstance(file, Member) else os.path.getsize(file)
    if size > limit:
        raise ImageError(f"The image '{file}' has {size:,} bytes; the limit is {limit:,}.", "Check the file.")
    if isinstance(file, Member):
        return file.read()
    with open(file, "rb") as stream:
        return stream.read()
