"""The orientation of an image, from its EXIF block, which is a TIFF directory, or from its XMP text."""

from __future__ import annotations

import re
import struct
import zlib

_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8
# Sizes, bits, colours, orientation, samples, planes, tile sizes, extra samples, sample format, place of the XMP text.
_TIFF_TAGS = (256, 257, 258, 262, 274, 277, 284, 322, 323, 338, 339, 700)
ORIENTATION_AT = -274  # no tag, but where the value of tag 274 is stored
RAW_PROFILE = b"Raw profile type exif\0"  # how ImageMagick writes EXIF: as hexadecimal text
_LARGEST_TEXT = 1 << 22  # bytes of an unpacked text
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")


class DamagedHeaderError(ValueError):
    """Bytes that begin like an image, but contradict its format; the message states how."""


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """Orientation 1 to 8 by a TIFF-formed EXIF block, or by XMP text where the block has none; 1 by default."""
    value: int | None = None
    if exif:
        try:
            value = tiff_tags(exif).get(274, (None,))[0]
        except (DamagedHeaderError, struct.error, IndexError, OverflowError):
            value = None
    if value is None and (found := _XMP_ORIENTATION.search(xmp)):
        value = int(found[1])
    return value if value is not None and 1 <= value <= 8 else 1


def trailing_exif(end: bytes) -> int:
    """Orientation in an EXIF chunk that follows a PNG's pixels, found in the file's last bytes; 1 by default."""
    position = end.rfind(b"eXIf")
    if position < 4:
        return 1
    (length,) = struct.unpack_from(">I", end, position - 4)
    body = end[position + 4 : position + 4 + length]
    checksum = end[position + 4 + length : position + 8 + length]
    whole = zlib.crc32(end[position : position + 4 + length]).to_bytes(4, "big") == checksum
    return orientation_of(body, b"") if whole else 1


def raw_profile(body: bytes, packed: bool) -> bytes:
    text = inflated(body[len(RAW_PROFILE) + 1 :]) if packed else body[len(RAW_PROFILE) :]
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:])).removeprefix(b"Exif\0\0")
    except ValueError:
        return b""


def inflated(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, _LARGEST_TEXT)
    except zlib.error:
        return b""


def tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The tags in `_TIFF_TAGS` of the first directory, up to 8 values each; of 700 (XMP), where it begins and ends."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    entry, pointer, room = (20, "Q", 8) if big else (12, "I", 4)
    (directory,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    if count > 4096:
        raise DamagedHeaderError(f"its directory claims {count} entries")
    tags: dict[int, tuple[int, ...]] = {}
    position = directory + (8 if big else 2)
    for start in range(position, position + count * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, start)
        if tag not in _TIFF_TAGS or (kind not in _TIFF_TYPES and tag != 700):
            continue
        (number,) = struct.unpack_from(order + pointer, data, start + 4)
        if tag == 700:
            (place,) = struct.unpack_from(order + pointer, data, start + entry - room)
            tags[tag] = (place, place + number)
            continue
        number = min(number, 8)
        values = order + f"{number}{_TIFF_TYPES[kind]}"
        place = start + entry - room
        if struct.calcsize(values) > room:
            (place,) = struct.unpack_from(order + pointer, data, place)
        found = struct.unpack_from(values, data, place)
        if found:
            tags[tag] = found
        if tag == 274 and kind == 3:
            tags[ORIENTATION_AT] = (place,)
    return tags
