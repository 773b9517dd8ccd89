"""Decodes image files into arrays, with OpenCV, or with Pillow where OpenCV differs from it.

Images that are too large are refused before memory is allocated, truncated files before a decoder can fill the missing
part with grey, and every failure is one ImageError naming the file.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib

import cv2
import numpy as np

from onelook.data.exif import DamagedHeaderError
from onelook.data.headers import HEIC, Header, heic_remedy, is_heic, read_header
from onelook.data.headers import IMAGE_SUFFIXES as IMAGE_SUFFIXES  # noqa: PLC0414
from onelook.data.members import MAX_FILE as MAX_FILE  # noqa: PLC0414
from onelook.data.members import Member
from onelook.data.paths import other_spelling
from onelook.data.pillow_image import decode_with_pillow
from onelook.errors import ConfigError, ImageError, reason_of


def _largest_image() -> int:
    value = os.environ.get("ONELOOK_MAX_PIXELS", "178956970")
    if not value.isdecimal():
        raise ConfigError(
            f"The environment variable ONELOOK_MAX_PIXELS is '{value}'.", "Give a whole number of pixels."
        )
    return int(value)


MAX_PIXELS = _largest_image()
"""The largest image that is decoded unless a `limit` is given: 512 MiB of RGB, the limit other libraries use too.
The environment variable ONELOOK_MAX_PIXELS changes it for a whole process."""

_MAX_SCANS = 200  # passes of a progressive JPEG; encoders write about ten
_MAX_SCANNED = 8_000_000_000  # pixels in all passes together
_PIXELS_PER_BYTE = 2048  # of a JPEG: a Huffman code has a bit a block of 8x8 at least; four times that is allowed
_RGB_FLAG = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV >= 4.11 decodes straight into RGB

if "OPENCV_LOG_LEVEL" not in os.environ:  # ImageError reports what OpenCV would print about a damaged file
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def decode_image(
    source: str | os.PathLike[str] | bytes | Member,
    *,
    limit: int | None = None,
    name: str = "",
    level: int = 0,
    rows: int | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, or of the bytes of one; C-contiguous and writable.

    limit: most pixels; None is MAX_PIXELS.  name: what errors call the image when `source` is bytes.  level: 0 to 3;
    a JPEG is decoded at 1 / 2 ** level of its sides, rounded up, which is quicker; other formats ignore it.  rows:
    how many rows of the whole image, from the top, are needed; of most JPEGs hardly more are decoded, which is quicker.

    The pixels are those of Pillow's `exif_transpose(image).convert("RGB")`; a JPEG in CMYK, and samples of more than
    8 bits, may differ by 1. So the image is upright, by EXIF or XMP or the turn and mirror of an AVIF. Grey becomes
    three equal channels; CMYK is converted. In every format an alpha channel is dropped: no background is assumed, and
    where colours were multiplied by it, that is undone. Of an animation or a multi-page file the first image is taken.
    Samples of more than 8 bits are scaled so that the format's white becomes 255; floating point holds 0..1, or else
    0..255 or 0..65535, whichever is the first range that contains the largest value, and NaN is black. (Of grey images
    of more than 8 bits, Pillow's own conversion makes all above 255 white, and that is not followed.)

    Raises ImageError for files that are missing, unreadable, empty, no image, damaged, truncated, or larger than
    `limit`. A JPEG with damage inside its data, but complete, is decoded as far as the decoder can, as everywhere.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or "image data"
    else:
        name, data = _read(source)
    header = _header(data, name, limit)
    _check_whole(data, header, name)
    image = _decode(data if rows is None else _top(data, header, rows, level), header, level)
    if image is None and rows is not None:
        # So little may be left behind the cut (a few bytes of an even area) that a decoder's look-ahead meets its end.
        image = _decode(data, header, level)
    if image is None:
        raise ImageError(
            f"'{name}' cannot be decoded: {_reason(header)}.", "Replace the file, or write it again as PNG or JPEG."
        )
    if image.shape[0] * image.shape[1] > (MAX_PIXELS if limit is None else limit):
        raise _too_large(name, image.shape[0], image.shape[1], limit)
    return image


def check_image(file: str | os.PathLike[str] | Member) -> None:
    """ImageError for a file that `decode_image` would refuse, without decoding JPEG, PNG and WebP, which takes longer.

    Of these the header is read, and that the end is there; of a PNG all checksums.
    """
    name, data = _read(file)
    header = _header(data, name, None)
    if header.format in ("JPEG", "PNG", "WebP") and (header.format, header.depth > 8) != ("JPEG", True):
        _check_whole(data, header, name)
    else:
        decode_image(data, name=name)


def _read(file: str | os.PathLike[str] | Member) -> tuple[str, bytes]:
    """(name, bytes) of a regular file, or of a member of a shard."""
    if isinstance(file, Member):
        return str(file), file.read()
    name = os.fspath(file)
    try:
        status = os.stat(name)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"'{name}' is a folder, not an image.", "Name an image file.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"'{name}' is not a regular file.", "Name an image file.")
        if status.st_size > MAX_FILE:
            raise ImageError(
                f"'{name}' has {status.st_size:,} bytes, more than any image that can be decoded ({MAX_FILE:,}).",
                "Name an image file; for a video use `onelook detect`.",
            )
        with open(name, "rb") as stream:
            return name, stream.read()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise ImageError(f"'{name}' does not exist.{other_spelling(name)}", "Check the path.") from error
        if isinstance(error, PermissionError):
            raise ImageError(
                f"'{name}' may not be read: permission denied.", "Change the file's permissions."
            ) from error
        raise ImageError(f"'{name}' cannot be read: {reason_of(error)}.", "Check the path.") from error
    except ValueError as error:  # a null byte in the name
        raise ImageError(f"{name!r} is not a file name: {error}.", "Check the path.") from error


def _header(data: bytes, name: str, limit: int | None) -> Header:
    if not data:
        raise ImageError(f"'{name}' is empty (0 bytes).", "Replace the file.")
    try:
        header = read_header(data)
    except DamagedHeaderError as error:
        raise ImageError(f"'{name}' is a damaged image: {error}.", "Replace the file.") from error
    if header is None:
        kind = kind_of(data)
        remedy = heic_remedy() if kind == HEIC else _REMEDY
        raise ImageError(f"'{name}' is not an image that can be read: {kind}.", remedy)
    if header.height * header.width > (MAX_PIXELS if limit is None else limit):
        raise _too_large(name, header.height, header.width, limit)
    return header


_REMEDY = "Images are JPEG, PNG, BMP, WebP, TIFF, GIF, Netpbm, JPEG 2000, AVIF or HDR; convert or remove the file."
_OTHERS = (
    (b"%PDF", "it is a PDF document"),
    (b"PK\x03\x04", "it is a ZIP archive"),
    (b"\x1f\x8b", "it is a gzip archive"),
    (b"\x00\x00\x01\x00", "it is a Windows icon"),
    (b"8BPS", "it is a Photoshop document"),
    (b"<svg", "it is an SVG drawing"),
    (b"<?xml", "it is an XML document"),
    (b"v/1\x01", "it is an OpenEXR image"),
    (b"RIFF", "it is a RIFF file, but not WebP"),
    (b"version https://git-lfs", "it is a Git LFS pointer; the image itself was not fetched"),
)


def kind_of(data: bytes) -> str:
    """A description of the bytes of a file that is no image."""
    for magic, text in _OTHERS:
        if data.startswith(magic):
            return text
    if data[4:8] == b"ftyp":
        return HEIC if is_heic(data) else "it is a video"
    if data[:8].strip(b"\0") == b"":
        return "it begins with zero bytes"
    text = data[:512].decode("utf-8", errors="ignore")  # a letter may be cut at the end
    if len(text.encode()) >= len(data[:512]) - 3 and all(letter.isprintable() or letter.isspace() for letter in text):
        return "it is text"
    return "its format is unknown"


def _too_large(name: str, height: int, width: int, limit: int | None) -> ImageError:
    most = MAX_PIXELS if limit is None else limit
    return ImageError(
        f"'{name}' has {width} x {height} = {height * width:,} pixels; the limit is {most:,}.",
        "Make the image smaller, or raise the limit with the environment variable ONELOOK_MAX_PIXELS.",
    )


def _check_whole(data: bytes, header: Header, name: str) -> None:
    """ImageError where the end of the image is missing, or it would take unbounded time."""
    if header.format == "JPEG":
        # Decoders fill a missing end with grey. Inside entropy-coded data 0xFF is always stuffed, so that an end marker
        # behind the beginning of the data is the image's own.
        if data.rfind(b"\xff\xd9", header.pixel_data) < 0:
            raise _truncated(name)
        pixels = header.height * header.width
        if header.huffman and pixels > _PIXELS_PER_BYTE * (len(data) - header.pixel_data):
            raise _truncated(name)
        scans = data.count(b"\xff\xda", header.pixel_data) if header.progressive else 0
        if scans > _MAX_SCANS or scans * pixels > _MAX_SCANNED:
            raise ImageError(
                f"'{name}' is a JPEG of {scans} scans over {pixels:,} pixels, which would take very long.",
                "Write it again with fewer scans.",
            )
    elif header.format == "PNG":
        _check_png(data, name)
    elif header.format == "WebP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise _truncated(name)


def _check_png(data: bytes, name: str) -> None:
    """Walks the chunks: libpng would print about damage on standard error, and name no file."""
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, end)
        needed = kind[0] & 0x20 == 0  # a damaged comment or colour profile does not spoil the pixels
        if needed and zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise ImageError(f"'{name}' is a damaged PNG: checksum error at byte {position}.", "Replace the file.")
        if kind == b"IEND":
            return
        position = end + 4
    raise _truncated(name)


def _truncated(name: str) -> ImageError:
    return ImageError(f"'{name}' is truncated: the end of the image is missing.", "Copy or download the file again.")


_LARGEST_BLOCK = 32  # rows: a JPEG is decoded in blocks of 8, 16, or (rarely) 24 or 32 rows


def _top(data: bytes, header: Header, rows: int, level: int) -> bytes | bytearray:
    """The file of an image with at least the first `rows` rows of a JPEG's, where its rows are decoded in order.

    Those rows are the same, bit for bit. The header gets a lower height, and the end marker is cut off: a decoder would
    report the bytes that remain in front of it. Some must remain, so a file whose last block is needed is not changed.
    """
    kept = rows + (2 << level)  # colour at half resolution looks one row ahead
    if not header.height_at or header.orientation != 1 or kept + _LARGEST_BLOCK > header.height:
        return data
    # Nearly all files end with their only end; looking for the first one takes as long as decoding a few rows.
    ends_once = data.endswith(b"\xff\xd9") and data.find(b"MPF\0", 0, header.pixel_data) < 0
    low = bytearray(memoryview(data)[: -2 if ends_once else data.find(b"\xff\xd9", header.pixel_data)])
    struct.pack_into(">H", low, header.height_at, kept)
    return low


_REDUCED = (0, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_8)


def _decode(data: bytes | bytearray, header: Header, level: int = 0) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, upright; None where it cannot be decoded."""
    if header.needs_pillow:
        return decode_with_pillow(bytes(data), header.format, header.height * header.width)
    if header.orientation_at and header.orientation != 1:  # OpenCV turns a TIFF whatever its flags say
        data = bytearray(data)
        struct.pack_into("<H" if data[:2] == b"II" else ">H", data, header.orientation_at, 1)
    image = _stored(np.frombuffer(data, np.uint8), header, level)
    return image if image is None or header.orientation == 1 else _upright(image, header.orientation)


def _stored(buffer: np.ndarray, header: Header, level: int) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB as OpenCV reads it, not turned."""
    if level and header.format == "JPEG":
        small = _read_flags(buffer, _REDUCED[level])
        return None if small is None else cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=small)
    if header.floating or (header.depth > 16 and header.format == "TIFF"):
        image = _read_flags(buffer, cv2.IMREAD_UNCHANGED)
        return None if image is None else _to_rgb(_float_to_8_bits(image))
    if header.largest not in (0, 255, 65535):
        image = _read_flags(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if image is None:
            return None
        scaled = np.minimum(image.astype(np.float32) * (255 / header.largest) + 0.5, 255)
        return _to_rgb(scaled.astype(np.uint8))
    if _RGB_FLAG is not None:
        return _read_flags(buffer, _RGB_FLAG)
    if (image := _read_flags(buffer, cv2.IMREAD_COLOR)) is not None:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image


def _read_flags(buffer: np.ndarray, flags: int) -> np.ndarray | None:
    """The image with its turn ignored: which turns OpenCV knows of depends on its version."""
    unturned = flags if flags == cv2.IMREAD_UNCHANGED else flags | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(buffer, unturned)
    except (cv2.error, MemoryError):
        return None


def _float_to_8_bits(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if np.issubdtype(image.dtype, np.integer):
        return (image.astype(np.float64) * (255 / np.iinfo(image.dtype).max)).clip(0, 255).astype(np.uint8)
    brightest = float(np.max(image, initial=0.0, where=np.isfinite(image)))
    white = next((white for white in (1.0, 255.0, 65535.0) if brightest <= white), brightest)
    fraction = np.nan_to_num(image, nan=0.0, posinf=white, neginf=0.0).clip(0, white) / white
    return (fraction * 255 + 0.5).astype(np.uint8)


def _to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W), or (H, W, C) in OpenCV's order of channels, as (H, W, 3) RGB."""
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 2:  # grey and alpha
        return cv2.cvtColor(np.ascontiguousarray(image[..., 0]), cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image turned and mirrored by its EXIF orientation (2 to 8)."""
    if orientation >= 5:
        image = cv2.transpose(image)
    columns, rows = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return cv2.flip(image, -1 if columns and rows else int(columns)) if columns or rows else image


def _reason(header: Header) -> str:
    """Why there is no image for a file with a sound header."""
    if header.format == "JPEG" and header.depth != 8:
        return f"JPEG of {header.depth} bits is not supported"
    return f"its {header.format} data is damaged or of an unsupported kind"
