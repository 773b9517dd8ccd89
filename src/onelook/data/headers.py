"""Headers of image files, read from their first bytes without decoding a pixel.

The formats are those that OpenCV or Pillow decodes. Sizes are what a decoder will allocate, so they can be refused
before memory is taken. Layouts: ITU T.81 (JPEG), the PNG, GIF89a, WebP (RFC 9649) and TIFF 6.0 / BigTIFF
specifications, ISO 15444-1 (JPEG 2000), ISO 23008-12 (AVIF, HEIC), Netpbm, Radiance.

Two libraries were measured instead, from file to upright size, in microseconds of processor time a file:

                          1,000 JPEGs with EXIF    500 of COCO    unknown to it, though OpenCV decodes it
    here                            21                  23
    Pillow 13.0                     75                  43        floating RGB TIFF, PFM in colour, HDR
    imagesize 2.0                   18                  19        PFM, HDR, Sun raster

`decode_image` would need this file beside either of them: neither tells what bounds the decoding (where the data of a
JPEG begins, whether its rows come in order, how many scans it has, whether the tiles of a JPEG 2000 crash a decoder)
nor all of what scales the samples. Two readers may disagree on a size; with one, what is annotated is what is decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from mmap import mmap
from typing import Any

from onelook.data.exif import (
    ORIENTATION_AT,
    RAW_PROFILE,
    DamagedHeaderError,
    inflated,
    orientation_of,
    raw_profile,
    tiff_tags,
)
from onelook.data.heif import heif_layout
from onelook.errors import install_command

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "bmp", "dib", "webp", "tif", "tiff", "gif", "avif"),
        *("ppm", "pgm", "pbm", "pnm", "pfm", "jp2", "j2k", "hdr", "ras", "heic", "heif", "hif"),
    )
)
"""Suffixes, lower case, by which files in a folder are taken for images."""


@dataclass(frozen=True)
class Header:
    """format: "JPEG", "PNG", ...  height, width: stored pixels, before any rotation.  orientation: EXIF, 1 to 8.

    The orientation is that of the EXIF block, else of the XMP text; AVIF and HEIC have it as properties.
    needs_pillow: whether OpenCV cannot be trusted with it (see `pillow_image`).  depth: bits a sample.  floating:
    whether samples are floating-point.  largest: the value of white where the file states one (Netpbm), else 0.
    orientation_at: where the two bytes of a TIFF's are stored, or 0.  Of a JPEG, progressive: it has several scans;
    huffman: its codes are Huffman's; pixel_data: where its compressed bytes begin; height_at: where its height is
    stored, if its rows follow one another in one scan without restart markers, else 0.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    depth: int = 8
    floating: bool = False
    largest: int = 0
    progressive: bool = False
    huffman: bool = False
    pixel_data: int = 0
    height_at: int = 0
    needs_pillow: bool = False
    orientation_at: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the decoded image, upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(data: bytes | memoryview | mmap) -> Header | None:
    """The header at the beginning of a file; None where no known format begins like this.

    Raises DamagedHeaderError where the format is known and the rest is missing or absurd.
    """
    data = bytes(data) if isinstance(data, memoryview) else data
    for magic, parse in _FORMATS:
        if magic(data):
            try:
                header = parse(data)
            except (struct.error, IndexError, OverflowError) as error:
                raise DamagedHeaderError("it ends inside its header") from error
            if header.height <= 0 or header.width <= 0:
                raise DamagedHeaderError(f"it claims to be {header.width}x{header.height} pixels")
            return header
    return None


# --- JPEG ------------------------------------------------------------------------------------------------------------

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"


def _jpeg(data: bytes) -> Header:
    position, exif, xmp, frame, restarts = 2, b"", b"", None, False
    while True:
        start = data.find(b"\xff", position)  # bytes between segments are tolerated by every decoder
        if start < 0:
            raise DamagedHeaderError("it ends before its image data")
        while data[start] == 0xFF:  # fill bytes
            start += 1
        marker, position = data[start], start + 1
        if marker == 0 or marker in _ALONE:
            continue
        if marker == 0xD9:
            raise DamagedHeaderError("it ends before its image data")
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:
            raise DamagedHeaderError(f"its segment at byte {start - 1} has no length")
        if marker in _FRAMES and frame is None:
            depth, height, width = struct.unpack_from(">BHH", data, position + 2)
            frame = (depth, height, width, marker, data[position + 7], position + 3)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            exif = exif or data[position + 8 : position + length]
        elif marker == 0xE1 and data[position + 2 : position + 31] == _XMP_NAME:
            xmp = data[position + 31 : position + length]
        elif marker == 0xDD:
            restarts = data[position + 2 : position + 4] != b"\0\0"
        parts = data[position + 2 : position + 3]  # of the frame that a scan holds
        position += length
        if marker == 0xDA:
            if frame is None:
                raise DamagedHeaderError("its image data begins before its size is known")
            depth, height, width, kind, components, height_at = frame
            one_scan = kind in (0xC0, 0xC1) and parts == bytes((components,))
            return Header(
                *("JPEG", height, width, orientation_of(exif, xmp), depth),
                progressive=kind in (0xC2, 0xC6, 0xCA, 0xCE),
                huffman=kind < 0xC8,
                pixel_data=position,
                height_at=height_at if one_scan and not restarts else 0,
            )


# --- TIFF ------------------------------------------------------------------------------------------------------------

_OPENCV_COLOURS = (0, 1, 2, 3, 5)  # of TIFF: grey in two directions, RGB, palette, CMYK; the others are YCbCr and Lab


def _tiff(data: bytes) -> Header:
    tags = tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        raise DamagedHeaderError("its directory states no size")
    height, width = tags[257][0], tags[256][0]
    # A tile larger than the image is memory all the same.
    tile_height, tile_width = tags.get(323, (0,))[0], tags.get(322, (0,))[0]
    if tile_height * tile_width > 4 * max(height * width, 1 << 20):
        raise DamagedHeaderError(
            f"its tiles of {tile_width}x{tile_height} are far larger than its {width}x{height} pixels"
        )
    if tags.get(277, (1,))[0] > 16:
        raise DamagedHeaderError(f"it claims {tags[277][0]} samples a pixel")
    orientation = tags.get(274, (1,))[0]
    if 274 not in tags and 700 in tags:
        orientation = orientation_of(b"", data[slice(*tags[700])])
    colours, floating = tags.get(262, (1,))[0], 3 in tags.get(339, (1,))
    depth = max(tags.get(258, (1,)))
    alpha = any(tags.get(338, (0,)))  # an extra sample of kind 0 is no alpha
    other = alpha or colours not in _OPENCV_COLOURS or (colours == 5 and depth == 16)
    if other and depth == 16 and tags.get(284, (1,))[0] == 2:
        raise DamagedHeaderError("it has 16-bit channels with alpha in separate planes, which no decoder reads rightly")
    return Header(
        *("TIFF", height, width, orientation if orientation in range(1, 9) else 1, depth, floating),
        needs_pillow=other and not floating and depth <= 16,
        orientation_at=tags.get(ORIENTATION_AT, (0,))[0],
    )


# --- the others ------------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Header:
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    if data[12:16] != b"IHDR":
        raise DamagedHeaderError("its first part is not the header")
    exif, profile, xmp, position = b"", b"", b"", 33
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length] if name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") else b""
        if name == b"eXIf":
            exif = body
        elif name in (b"tEXt", b"zTXt") and body.startswith(RAW_PROFILE):
            profile = raw_profile(body, packed=name == b"zTXt")
        elif name == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            xmp = inflated(body[22:]) if body[18:19] == b"\1" else body
        elif name == b"IEND":
            break
        position += length + 12
    return Header("PNG", height, width, orientation_of(exif or profile, xmp), depth)


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", height, width, needs_pillow=True)


def _bmp(data: bytes) -> Header:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    bits = data[24:26] if header == 12 else data[28:30]
    return Header("BMP", abs(height), width, needs_pillow=bits == b"\x10\0")


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise DamagedHeaderError(f"its first part is {kind!r}")
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    exif, xmp, position = b"", b"", 12
    while data[20] & 12 and position + 8 <= len(data):  # bits 2 and 3: XMP and EXIF follow somewhere
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            exif = data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
        elif name == b"XMP ":
            xmp = data[position + 8 : position + 8 + length]
        position += 8 + length + (length & 1)
    return Header("WebP", height, width, orientation_of(exif, xmp))


_NETPBM = re.compile(
    rb"P([1-6Ff])(?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})(?:(?:\s|#[^\n]*\n)+([-+.\deE]{1,20}))?"
)


def _netpbm(data: bytes) -> Header:
    found = _NETPBM.match(data[:65536])
    if not found:
        raise DamagedHeaderError("its size cannot be read")
    kind, width, height, largest = found.groups()
    if kind in (b"F", b"f"):
        return Header("PFM", int(height), int(width), depth=32, floating=True)
    if kind in (b"1", b"4"):
        return Header("PBM", int(height), int(width), depth=1)
    white = int(largest) if largest and largest.isdigit() else 0
    if not 0 < white < 65536:
        raise DamagedHeaderError("its largest value cannot be read")
    return Header(
        "PPM" if kind in (b"3", b"6") else "PGM", int(height), int(width), depth=8 if white < 256 else 16, largest=white
    )


def _jpeg2000(data: bytes) -> Header:
    start = data.find(b"\xff\x4f\xff\x51", 0, 1 << 20)
    if start < 0:
        raise DamagedHeaderError("its codestream is missing")
    right, bottom, left, top, *tile = struct.unpack_from(">8I", data, start + 8)
    tile_width, tile_height, tile_left, tile_top = tile
    (components,) = struct.unpack_from(">H", data, start + 40)
    # What the standard demands of the first tile; some decoders crash where it does not hold.
    inside = tile_left <= left < tile_left + tile_width and tile_top <= top < tile_top + tile_height
    if not inside or (right - left) * (bottom - top) > 65535 * tile_width * tile_height:
        raise DamagedHeaderError("its tiles do not fit its size")
    steps = data[start + 43 : start + 42 + 3 * components : 3] + data[start + 44 : start + 42 + 3 * components : 3]
    if not 0 < components <= 64 or 0 in steps:
        raise DamagedHeaderError(f"it claims {components} components")
    return Header("JPEG 2000", bottom - top, right - left, depth=(data[start + 42] & 0x7F) + 1, needs_pillow=True)


def _avif(data: bytes) -> Header:
    height, width, orientation = heif_layout(data, crops=False)
    return Header("AVIF", height, width, orientation, needs_pillow=True)


def _heic(data: bytes) -> Header:
    height, width, orientation = heif_layout(data, crops=True)
    return Header("HEIC", height, width, orientation, needs_pillow=True)


HEIC = "it is a HEIC image"


def heic_remedy() -> str:
    """What to do with a HEIC image where the package that reads it is not installed."""
    return f"Convert it to JPEG or PNG, or install what reads it: {install_command('heic')}"


def is_heic(data: bytes) -> bool:
    """Whether a file that begins like this is an HEIC image, as phones write them."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))


@lru_cache
def _reads_heic() -> bool:
    return find_spec("pillow_heif") is not None


def _radiance(data: bytes) -> Header:
    found = re.search(rb"\n[-+]Y (\d{1,9}) [-+]X (\d{1,9})\n", data[:65536])
    if not found:
        raise DamagedHeaderError("its size cannot be read")
    return Header("HDR", int(found[1]), int(found[2]), depth=32)


def _sun(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 4)
    return Header("Sun raster", height, width)


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data[:16].startswith(magics)  # a memory map has no startswith


_BMP_HEADERS = frozenset(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))

_FORMATS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Header]], ...] = (
    (_starts(b"\xff\xd8\xff"), _jpeg),
    (_starts(b"\x89PNG\r\n\x1a\n"), _png),
    (_starts(b"GIF87a", b"GIF89a"), _gif),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
    (_starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (lambda data: data[:2] == b"BM" and data[14:18] in _BMP_HEADERS, _bmp),
    (lambda data: data[:1] == b"P" and data[1:2] in b"123456Ff" and data[2:3] in b" \t\r\n#", _netpbm),
    (_starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), _jpeg2000),
    (lambda data: data[4:8] == b"ftyp" and any(name in data[8:64] for name in (b"avif", b"avis")), _avif),
    (lambda data: is_heic(data) and _reads_heic(), _heic),
    (_starts(b"#?RADIANCE", b"#?RGBE"), _radiance),
    (_starts(b"\x59\xa6\x6a\x95"), _sun),
)


def usual_ending(data: bytes) -> str:
    """The usual ending of the names of an image's format; `.jpg` where it cannot be told. data: its first 64 kB."""
    try:
        header = read_header(data)
    except DamagedHeaderError:
        header = None
    found = ".jpg" if header is None else f".{header.format.lower().replace(' ', '')}"
    return found if found in IMAGE_SUFFIXES else ".jpg"
