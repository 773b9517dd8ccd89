"""Writes TIFF files of kinds that Pillow and OpenCV do not: orders of bytes, planes, kinds of alpha."""

import struct

import numpy as np

_LETTERS = {3: "H", 4: "I"}


def tiff(values, colours, *, extra=(), planes=1, order="<", orientation=1):
    """An uncompressed TIFF of (H, W, C) uint8 or uint16. colours: tag 262; extra: tag 338; planes: 1 or 2, tag 284."""
    height, width, channels = values.shape
    values = values.astype(values.dtype.newbyteorder(order))
    parts = [values[..., i] for i in range(channels)] if planes == 2 else [values]
    strips = [np.ascontiguousarray(part).tobytes() for part in parts]
    tags = {
        256: (3, (width,)),
        257: (3, (height,)),
        258: (3, (8 * values.itemsize,) * channels),
        259: (3, (1,)),
        262: (3, (colours,)),
        273: (4, (0,) * len(strips)),
        274: (3, (orientation,)),
        277: (3, (channels,)),
        278: (3, (height,)),
        279: (4, tuple(map(len, strips))),
        284: (3, (planes,)),
    }
    if extra:
        tags[338] = (3, extra)
    directory = 8 + 2 + 12 * len(tags) + 4
    sizes = {tag: struct.calcsize(f"{order}{len(found)}{_LETTERS[kind]}") for tag, (kind, found) in tags.items()}
    place = directory + sum(size for size in sizes.values() if size > 4)
    starts = np.cumsum([place, *map(len, strips)])[:-1].tolist()
    tags[273] = (4, tuple(starts))
    entries, behind = b"", b""
    for tag, (kind, found) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(found)}{_LETTERS[kind]}", *found)
        entries += struct.pack(f"{order}HHI", tag, kind, len(found))
        if len(packed) > 4:
            entries += struct.pack(f"{order}I", directory + len(behind))
            behind += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + behind + b"".join(strips)
