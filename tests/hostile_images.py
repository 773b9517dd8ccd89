"""Files that are no image, are damaged, or ask for much memory or time, with a pattern of what is said of each."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from encoded_images import KINDS, PLAIN, encoded, noise, sample_image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_of_many_pixels() -> bytes:
    huge = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = (b"IHDR", huge), (b"IDAT", zlib.compress(bytes(9_000_000))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def _damaged_png() -> bytes:
    content = bytearray(encoded(noise(), "PNG"))
    content[9000:9004] = b"oops"
    return bytes(content)


def _jpeg_of_many_scans() -> bytes:
    content = encoded(noise(), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    return content[:-2] + content[scan:-2] * 5000 + content[-2:]


def _jpeg_of_few_bytes() -> bytes:
    content = encoded(PLAIN, "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", 12_000, 12_000) + content[place + 4 :]


def _half_progressive_jpeg() -> bytes:
    thumbnail = encoded(sample_image(12, 16), "JPEG")
    content = encoded(noise(), "JPEG", progressive=True, exif=b"Exif\0\0" + thumbnail)
    return content[: len(content) // 2]


def _jpeg_2000_with_tiles_outside() -> bytes:
    content = bytearray(KINDS["JPEG 2000"][0])
    content[content.index(b"\xff\x4f\xff\x51") + 39] = 0xA3  # the first tile's top; OpenCV 4.10 crashes on it
    return bytes(content)


def _jpeg_2000_of_two_sizes() -> bytes:
    content = bytearray(encoded(np.zeros((48, 64), np.uint8), "JPEG2000"))
    content[content.index(b"ihdr") + 4] = 0x10  # the height in the box before the codestream: 268 million
    return bytes(content)


HOSTILE = {
    "a text": (b"hello, I am a text\n" * 50, "text"),
    "zeros": (bytes(4000), "zero bytes"),
    "random bytes": (bytes(range(128, 256)) * 9, "unknown"),
    "PDF": (b"%PDF-1.7 ...", "PDF"),
    "HEIC without content": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    "a video": (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "JPEG signature": (b"\xff\xd8\xff", "header|ends"),
    "JPEG of no content": (b"\xff\xd8\xff\xd9", "ends before"),
    "PNG signature": (b"\x89PNG\r\n\x1a\n", "header"),
    "GIF signature": (b"GIF89a", "header"),
    "TIFF without end": (b"II*\0\xff\xff\xff\xff", "header"),
    "WebP of 4 GB": (b"RIFF\xff\xff\xff\xffWEBPVP8X", "header"),
    "negative sides": (b"P6\n-3 4\n255\n", "size"),
    "no width": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 9), "0x9"),
    "PNG of many pixels": (
        _png_of_many_pixels(),
        r"60000 x 60000 = 3,600,000,000 pixels; the limit is 178,956,970",
    ),
    "damaged PNG": (_damaged_png(), "checksum error at byte"),
    "JPEG of many scans": (_jpeg_of_many_scans(), "scans"),
    "JPEG of few bytes and many pixels": (_jpeg_of_few_bytes(), "truncated"),
    "half a progressive JPEG with a thumbnail": (_half_progressive_jpeg(), "truncated"),
    "JPEG 2000 whose tiles begin outside": (_jpeg_2000_with_tiles_outside(), "tiles"),
    "JPEG 2000 of two sizes": (_jpeg_2000_of_two_sizes(), "cannot be decoded"),
}


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with some other bytes, most of them in the header, and sometimes cut off."""
    copy = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        copy[int(rng.integers(0, min(len(copy), 400) if rng.random() < 0.7 else len(copy)))] = rng.integers(0, 256)
    if rng.random() < 0.3:
        del copy[int(rng.integers(1, len(copy))) :]
    return bytes(copy)
