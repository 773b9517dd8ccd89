"""Size and turn of AVIF and HEIC files: the properties of their primary image, from the boxes of ISO 14496-12.

A still image's boxes: `meta` holds `pitm` (the primary item), and `iprp` with `ipco` (a list of properties) and `ipma`
(which properties an item has). `ispe` is the stored size; `irot` turns by quarter turns counterclockwise, after which
`imir` mirrors (ISO 23008-12, 6.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SEARCHED = 1 << 20  # bytes of the file in which the boxes must be
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # bytes in front of the boxes inside
# EXIF orientation by the quarter turns of `irot`: without a mirror, with `imir` axis 0 (rows), axis 1 (columns)
_ORIENTATIONS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


def heif_layout(data: bytes, *, crops: bool) -> tuple[int, int, int]:
    """(height, width, EXIF orientation) of the primary image; height and width before turning, 0 where none is stated.

    crops: whether decoders of the format cut out the clean aperture (`clap`), as those of HEIC do and of AVIF do not.
    Of an image sequence without still images, the largest stated size. struct.error or IndexError at damage.
    """
    data = data[:_SEARCHED]
    primary, properties, owned = _primary_properties(data)
    chosen = [properties[index] for index in owned.get(primary, ()) if index < len(properties)]
    sizes = [body for name, body in chosen if name == b"ispe"]
    height = width = turns = 0
    mirror: int | None = None
    for name, body in chosen:
        if name == b"ispe":
            width, height = struct.unpack_from(">II", body, 4)
        elif name == b"clap" and crops:
            over_width, under_width, over_height, under_height = struct.unpack_from(">4I", body)
            width, height = over_width // max(1, under_width), over_height // max(1, under_height)
        elif name == b"irot":
            turns = body[0] & 3
        elif name == b"imir":
            mirror = body[0] & 1
    if not sizes:
        height, width = _largest_size(data)
    return height, width, _ORIENTATIONS[mirror][turns]


def _primary_properties(data: bytes) -> tuple[int, list[tuple[bytes, bytes]], dict[int, list[int]]]:
    """The primary item, all properties in order, and the indices into them of every item."""
    primary, owned = 0, {}
    properties: list[tuple[bytes, bytes]] = []
    for parent, name, body in _boxes(data, 0, len(data), b""):
        if parent == b"ipco":
            properties.append((name, body))
        elif name == b"pitm":
            (primary,) = struct.unpack_from(">I" if body[0] else ">H", body, 4)
        elif name == b"ipma":
            owned.update(_associations(body))
    return primary, properties, owned


def _boxes(data: bytes, start: int, end: int, parent: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(parent, name, content) of the boxes between two positions, and of those inside the containers."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        stop = min(end, start + size) if size else end
        if stop < start + head:
            return
        if name in _CONTAINERS:
            yield from _boxes(data, start + head + _CONTAINERS[name], stop, name)
        else:
            yield parent, name, data[start + head : stop]
        start = stop


def _associations(body: bytes) -> dict[int, list[int]]:
    """Indices of properties, from 0, of each item of an `ipma` box."""
    wide_item, wide_index = body[0] > 0, body[3] & 1
    (count,) = struct.unpack_from(">I", body, 4)
    position, found = 8, {}
    for _ in range(min(count, 65536)):
        (item,) = struct.unpack_from(">I" if wide_item else ">H", body, position)
        position += 4 if wide_item else 2
        number = body[position]
        places = struct.unpack_from(f">{number}{'H' if wide_index else 'B'}", body, position + 1)
        position += 1 + number * (2 if wide_index else 1)
        found[item] = [(place & (0x7FFF if wide_index else 0x7F)) - 1 for place in places]
    return found


def _largest_size(data: bytes) -> tuple[int, int]:
    height = width = position = 0
    while (position := data.find(b"ispe", position)) >= 0:
        w, h = struct.unpack_from(">II", data, position + 8)
        if h * w > height * width:
            height, width = h, w
        position += 4
    return height, width
