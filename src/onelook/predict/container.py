"""What a container (AVI, MP4 and MOV, Matroska) says of itself: whether the file is whole, whether it has sound."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import IO

_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"moof", b"sidx", b"uuid", b"styp"))
_HEAD = 1 << 18  # bytes in which AVI and Matroska describe their streams
_LARGEST_MOOV = 1 << 26
_MATROSKA = b"\x1aE\xdf\xa3"


def is_cut(path: str) -> bool:
    """Whether a file is shorter than its container says that it is."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(64)
            if head.startswith(b"RIFF"):
                return int.from_bytes(head[4:8], "little") + 8 > length
            if head.startswith(_MATROSKA):
                return _matroska_end(head) > length
            return any(position + size > length for _, position, size in _mp4_boxes(file, length))
    except (OSError, struct.error, IndexError):
        return False


def has_sound(path: str) -> bool | None:
    """Whether a video has a sound track; None where its container is another one, or its description is not found."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(_HEAD)
            if head.startswith(b"RIFF"):
                return b"strhauds" in re.sub(rb"strh....", b"strh", head, flags=re.DOTALL)
            if head.startswith(_MATROSKA):  # codecs are named V_..., A_..., S_...
                codecs = set(re.findall(rb"\x86[\x80-\xff]([AV])_[A-Z0-9]", head))
                return b"A" in codecs if codecs else None
            for name, position, size in _mp4_boxes(file, length):
                if name == b"moov" and size <= _LARGEST_MOOV:
                    file.seek(position)
                    return re.search(rb"hdlr.{8}soun", file.read(size), re.DOTALL) is not None
    except (OSError, struct.error):
        pass
    return None


def _mp4_boxes(file: IO[bytes], length: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, position, size) of the outer boxes of an MP4 or MOV; none of another file."""
    position = 0
    while position + 8 <= length:
        file.seek(position)
        head = file.read(16).ljust(16, b"\0")
        if head[4:8] not in _MP4_BOXES:
            return
        (size,) = struct.unpack_from(">I", head)
        size = struct.unpack_from(">Q", head, 8)[0] if size == 1 else size
        if size < 8:  # to the end of the file, or unreadable, which the reader has met
            return
        yield head[4:8], position, size
        position += size


def _matroska_end(head: bytes) -> int:
    """Where the segment ends; 0 where it does not say."""
    position = 4
    size, width = _matroska_number(head, position)
    position += width + size
    if head[position : position + 4] != b"\x18\x53\x80\x67":
        return 0
    size, width = _matroska_number(head, position + 4)
    unknown = size == (1 << 7 * width) - 1
    return 0 if unknown else position + 4 + width + size


def _matroska_number(head: bytes, position: int) -> tuple[int, int]:
    """The value and the length in bytes of a Matroska number: its first byte's leading zeros tell the length."""
    width = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
    return value, width
