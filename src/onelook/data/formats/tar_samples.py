"""Reads the samples of a tar file in WebDataset's layout, from its beginning to its end; nothing is unpacked.

Members that follow one another and agree up to the first dot of their names are a sample: `0001.jpg`, `0001.json`.
The library `webdataset` reads streams; here places are needed, from which images are read in any order later.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import BinaryIO

from onelook.data.members import MAX_FILE, Member
from onelook.data.paths import is_image, plain_name, why_unusable
from onelook.data.remote import open_url, url_of
from onelook.data.sizes import size_in_file
from onelook.errors import DataError, ImageError, reason_of

ANNOTATIONS = ("json", "txt")  # the first of them that a sample has
ANNOTATION_LIMIT = 1 << 24  # bytes, as of a label file
_HEADER_LIMIT = 1 << 20  # bytes of an extended header; they hold names, and are read as one block
_BLOCK = 512
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_REMEDY = "Copy or download the shard again, or write it anew."


@dataclass(frozen=True)
class TarSample:
    """One sample of a shard.

    image: where the image is.  size: its displayed (height, width), or why it cannot be told.  annotation: name of the
    member that annotates it, "" without one.  text: its content.
    """

    image: Member
    size: tuple[int, int] | ImageError
    annotation: str = ""
    text: bytes = b""


def read_samples(shard: str) -> list[TarSample]:
    """The samples of a tar file, in order. Raises `DataError` naming the shard and the member."""
    try:
        with _opened(shard) as file:
            return list(_samples(shard, file))
    except OSError as error:
        raise DataError(f"The shard '{shard}' cannot be read: {reason_of(error)}.", _REMEDY) from error


@contextmanager
def _opened(shard: str) -> Iterator[BinaryIO]:
    if url_of(shard) is not None:
        with open_url(shard) as stream:
            yield stream
        return
    if os.path.exists(shard) and not os.path.isfile(shard):  # opening a pipe would block for ever
        raise DataError(f"The shard '{shard}' is not an ordinary file.", "Name a tar file.")
    with open(shard, "rb") as stream:
        yield stream


class _Bounded:
    """A stream that `tarfile` reads from: where `limit` is set, a longer read is refused before it takes memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.limit = file, MAX_FILE
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.limit:
            raise tarfile.ReadError(f"an extended header of {size:,} bytes")
        return self._file.read(size)


def _members(shard: str, stream: _Bounded) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every entry of a tar file; a damaged or missing end is an error, which `tarfile` takes for the end."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if (start := stream.read(8)).startswith(_COMPRESSED):
        raise DataError(
            f"The shard '{shard}' is compressed, so its images cannot be read one by one.",
            "Unpack it to a plain .tar; images are compressed already.",
        )
    if not start:
        raise DataError(f"The shard '{shard}' is empty (0 bytes).", _REMEDY)
    stream.seek(0)
    tar, last = None, -1
    while True:
        stream.limit = _HEADER_LIMIT
        try:
            if tar is None:
                tar = tarfile.TarFile(fileobj=stream, mode="r", errorlevel=0)  # type: ignore[arg-type]
            info = tar.next()
            tar.members = []  # type: ignore[attr-defined]  # it would keep every entry
        except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
            place = 0 if tar is None else tar.offset
            raise DataError(f"'{shard}' is no tar file, or damaged at byte {place:,}: {error}.", _REMEDY) from error
        stream.limit = MAX_FILE
        if info is None:
            break
        if info.size < 0 or info.offset_data <= last or info.offset_data + info.size > end:
            raise DataError(f"'{shard}/{_shown(info.name)}' is cut short: the shard ends before.", _REMEDY)
        last = info.offset_data
        yield tar, info
    stream.seek(tar.offset)
    rest = stream.read(_BLOCK)
    if len(rest) < _BLOCK or any(rest):
        what = "is damaged" if any(rest) else "is cut short: its end mark is missing"
        raise DataError(f"The shard '{shard}' {what} at byte {tar.offset:,}.", _REMEDY)


@dataclass(frozen=True)
class _Part:
    """A member that is a part of a sample."""

    tar: tarfile.TarFile
    info: tarfile.TarInfo
    key: str
    kind: str

    @property
    def is_image(self) -> bool:
        return "." not in self.kind and is_image(f"a.{self.kind}")


def _parts(shard: str, file: BinaryIO) -> Iterator[_Part]:
    for tar, info in _members(shard, _Bounded(file)):
        base = info.name.rpartition("/")[2]
        if info.isdir() or base.startswith(".") or "." not in base:
            continue
        if not info.isreg() or info.issparse():
            raise DataError(
                f"'{shard}/{_shown(info.name)}' is a link or another special entry, not a file.",
                "Write the shard with ordinary files.",
            )
        if plain_name(info.name) != info.name.removeprefix("./"):
            raise DataError(
                f"'{shard}': the name {_shown(info.name)!r} {why_unusable(info.name)}.", "Rename the member."
            )
        key, _, kind = base.partition(".")
        yield _Part(tar, info, info.name[: len(info.name) - len(base)] + key, kind.lower())


def _samples(shard: str, file: BinaryIO) -> Iterator[TarSample]:
    for _, group in groupby(_parts(shard, file), lambda part: part.key):
        image: Member | None = None
        size: tuple[int, int] | ImageError = (0, 0)
        annotations: dict[str, tuple[str, bytes]] = {}
        for part in group:  # one by one: the stream goes on with each
            place = f"{shard}/{_shown(part.info.name)}"
            if part.is_image:
                if image is not None:
                    raise DataError(
                        f"'{place}' is a second image of its sample, beside '{image.name}'.",
                        "Members that agree up to the first dot of their names are one sample: rename one.",
                    )
                image, size = _image(shard, part)
            elif part.kind in ANNOTATIONS and part.kind not in annotations:
                annotations[part.kind] = (place, _text(part, place))
            elif part.kind == "xml":
                raise DataError(
                    f"'{place}' is an annotation in XML, which shards are not read with.",
                    "Write shards with: onelook convert DATA --to shards --out FOLDER",
                )
        if image is not None:
            name, text = next((annotations[kind] for kind in ANNOTATIONS if kind in annotations), ("", b""))
            yield TarSample(image, size, name, text)


def _image(shard: str, part: _Part) -> tuple[Member, tuple[int, int] | ImageError]:
    info = part.info
    member = Member(shard, info.offset_data, info.size, plain_name(info.name) or "")
    if info.size > MAX_FILE:
        return member, ImageError(f"'{member}' has {info.size:,} bytes, more than any image.", "Take it out.")
    stream = part.tar.extractfile(info)
    assert stream is not None  # it is an ordinary file
    try:
        return member, size_in_file(stream, str(member))
    except ImageError as error:
        return member, error


def _text(part: _Part, place: str) -> bytes:
    if part.info.size > ANNOTATION_LIMIT:
        raise DataError(f"'{place}' has {part.info.size:,} bytes, more than any annotation.", "Check the member.")
    stream = part.tar.extractfile(part.info)
    assert stream is not None  # it is an ordinary file
    return stream.read()


def _shown(name: str) -> str:
    return ascii(name)[1:-1][:120] if not name.isprintable() else name[:120]
