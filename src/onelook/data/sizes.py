"""Sizes of images from the first bytes of their files, without decoding.

The size is the displayed one: a JPEG whose EXIF orientation turns it by 90 degrees has height and width exchanged,
as the decoder gives it.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from onelook.data.progress import Progress, silent
from onelook.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif png bmp dib webp tif tiff gif pbm pgm ppm pnm jp2".split()  # noqa: SIM905
)
MARKER_LIMIT = 4096  # segments before the frame header of a JPEG; real files have a few dozen
_REMEDY = "Replace the file, or take it out of the data set."


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as displayed. Raises `ImageError` for what is missing, no image, or damaged in its header."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"The image '{path}' is not an ordinary file.", _REMEDY)
        with open(path, "rb", buffering=4096) as file:
            size = _parse(file)
    except FileNotFoundError:
        raise ImageError(f"The image '{path}' does not exist.", "Check the file name in the annotations.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"The image '{path}' cannot be read: {error}.", _REMEDY) from error
    except (struct.error, IndexError):
        raise ImageError(f"The image '{path}' ends inside its header.", _REMEDY) from None
    if size is None:
        raise ImageError(f"'{path}' is not an image of a known format.", _REMEDY)
    height, width = size
    if not (0 < height < 1 << 20 and 0 < width < 1 << 20):
        raise ImageError(f"The image '{path}' claims a size of {width} x {height} pixels.", _REMEDY)
    return height, width


def image_sizes(paths: Sequence[str], progress: Progress = silent) -> Iterator[tuple[int, int] | ImageError]:
    """The size of every file, in order, read by a few threads; an error takes the place of a size."""

    def one(path: str) -> tuple[int, int] | ImageError:
        try:
            return image_size(path)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2)) as pool:
        for start in range(0, len(paths), 4096):
            yield from pool.map(one, paths[start : start + 4096], chunksize=64)
            progress(start, len(paths))


def _parse(file: BinaryIO) -> tuple[int, int] | None:
    start = file.read(32)
    if start[:3] == b"\xff\xd8\xff":
        return _jpeg(file)
    if start[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(file)
    if start[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        return _jpeg2000(file)
    if start[:1] == b"P" and start[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6"):
        return _netpbm(file)
    return _fixed(start)


def _fixed(start: bytes) -> tuple[int, int] | None:
    """Formats whose size has a fixed place in the first bytes."""
    width = height = 0
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = struct.unpack(">II", start[16:24])
    elif start[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack("<HH", start[6:10])
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp(start)
    elif start[:2] == b"BM" and start[14:18] == b"\x0c\0\0\0":  # the header of OS/2
        width, height = struct.unpack("<HH", start[18:22])
    elif start[:2] == b"BM":
        width, height = struct.unpack("<ii", start[18:26])
    else:
        return None
    return abs(height), width


def _jpeg(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(2)
    turned = False
    for _ in range(MARKER_LIMIT):
        byte = file.read(1)
        while byte and byte != b"\xff":  # stray bytes between segments are common and harmless
            byte = file.read(1)
        while byte == b"\xff":
            byte = file.read(1)
        kind = byte[0]
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            continue
        if kind in (0xD9, 0xDA):
            return None
        length = struct.unpack(">H", file.read(2))[0]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", file.read(5))
            return (width, height) if turned else (height, width)
        body = file.read(length - 2) if kind == 0xE1 and length > 10 else None
        if body is None:
            file.seek(max(length - 2, 0), os.SEEK_CUR)
        elif body[:6] == b"Exif\0\0":
            turned = _exif_turns(body[6:])
    return None


def _exif_turns(body: bytes) -> bool:
    """Whether the EXIF orientation (tag 0x112) exchanges height and width. A damaged block turns nothing."""
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None:
        return False
    try:
        start = struct.unpack(order + "I", body[4:8])[0]
        for entry in range(min(struct.unpack(order + "H", body[start : start + 2])[0], 512)):
            place = start + 2 + 12 * entry
            tag, kind = struct.unpack(order + "HH", body[place : place + 4])
            if tag == 0x112 and kind == 3:
                return 5 <= struct.unpack(order + "H", body[place + 8 : place + 10])[0] <= 8
    except struct.error:
        return False
    return False


def _webp(start: bytes) -> tuple[int, int] | None:
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if kind == b"VP8L":
        bits = struct.unpack("<I", start[21:25])[0]
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", start[26:30])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(file: BinaryIO) -> tuple[int, int]:
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    file.seek(4)
    file.seek(struct.unpack(order + "I", file.read(4))[0])
    found = {}
    for _ in range(min(struct.unpack(order + "H", file.read(2))[0], 512)):
        tag, kind, _, value = struct.unpack(order + "HHI4s", file.read(12))
        if kind in (3, 4):
            found[tag] = struct.unpack(order + ("H" if kind == 3 else "I"), value[: 2 if kind == 3 else 4])[0]
    if 256 not in found or 257 not in found:
        raise ValueError("the TIFF header has no size")
    height, width = found[257], found[256]
    return (width, height) if 5 <= found.get(274, 1) <= 8 else (height, width)


def _jpeg2000(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(0)
    start = file.read(512)
    place = start.find(b"ihdr")
    if place < 0:
        return None
    height, width = struct.unpack(">II", start[place + 4 : place + 12])
    return height, width


def _netpbm(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(2)
    words: list[int] = []
    text = b"".join(line.split(b"#")[0] + b" " for line in file.read(4096).split(b"\n"))
    for word in text.split()[:2]:
        if not word.isdigit() or len(word) > 9:
            return None
        words.append(int(word))
    return (words[1], words[0]) if len(words) == 2 else None
