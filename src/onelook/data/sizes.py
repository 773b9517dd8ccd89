"""Sizes of images from the first bytes of their files, without decoding.

The size is the displayed one: a JPEG whose EXIF orientation turns it by 90 degrees has height and width exchanged,
as in the decoded image.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import UnsupportedOperation
from typing import IO

from onelook.data.exif import DamagedHeaderError, trailing_exif
from onelook.data.headers import HEIC, Header, heic_remedy, is_heic, read_header
from onelook.data.members import ImageFile, Member, MemberFile
from onelook.data.paths import other_spelling
from onelook.devices import num_cores
from onelook.errors import ImageError
from onelook.reporter import Progress, ignore_progress

READ_LENGTHS = (1 << 14, 1 << 18, 1 << 24)  # bytes; metadata before the size are rarely longer than the first
_RUN = 32  # files that a thread reads at once, at most: handing it one by one takes as long as reading it
_MISSING = "Add the file, or correct its name where it is listed or annotated."
_PNG_END = 1 << 14  # bytes at the end of a PNG in which its EXIF block is looked for
_REMEDY = "Replace the file, or take it out of the data set."


def image_size(path: str | os.PathLike[str] | Member) -> tuple[int, int]:
    """(height, width) as displayed. Raises `ImageError` for a missing file, no image, or a damaged header."""
    if isinstance(path, Member):
        with path.open() as member:
            return size_in_file(member, str(path))
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block for ever
            raise ImageError(f"The image '{path}' is not an ordinary file.", _REMEDY)
        with open(path, "rb", buffering=0) as file:
            return size_in_file(file, str(path))
    except FileNotFoundError:
        spelling = other_spelling(path)
        remedy = "Rename the file, or write its name in the other form." if spelling else _MISSING
        raise ImageError(f"The image '{path}' does not exist.{spelling}", remedy) from None
    except (OSError, ValueError) as error:
        raise ImageError(f"The image '{path}' cannot be read: {error}.", _REMEDY) from error


def size_in_file(file: IO[bytes] | MemberFile, name: str) -> tuple[int, int]:
    """(height, width) of the image in an open file, as `image_size`; a file that is no mapping of a disk is read whole.

    name: what errors call it.
    """
    try:
        header = _header(file)
        if header is None and is_heic(_first_bytes(file)):
            raise ImageError(f"'{name}' cannot be read: {HEIC}.", heic_remedy())
    except ValueError as error:
        raise ImageError(f"The image '{name}' cannot be read: {error}.", _REMEDY) from error
    if header is None:
        raise ImageError(f"'{name}' is not an image of a known format.", _REMEDY)
    height, width = header.size
    if not (0 < height < 1 << 20 and 0 < width < 1 << 20):
        raise ImageError(f"The image '{name}' claims a size of {width} x {height} pixels.", _REMEDY)
    return height, width


def image_sizes(
    paths: Sequence[ImageFile], progress: Progress = ignore_progress, *, stop: bool = False
) -> list[tuple[int, int] | ImageError]:
    """The size of every file, in order, read by a few threads; in place of a size, the error of a damaged file.

    stop: end within a few thousand files after the first error; the list is shorter then.
    """
    found: list[tuple[int, int] | ImageError] = []
    threads = min(8, 2 * num_cores())
    count = max(1, min(_RUN, -(-len(paths) // threads)))  # of few files, each thread gets some
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), 4096):
            stop_at = min(start + 4096, len(paths))
            runs = [paths[first : min(first + count, stop_at)] for first in range(start, stop_at, count)]
            part = [size for run in pool.map(_sizes_or_errors, runs) for size in run]
            found += part
            if stop and any(isinstance(size, ImageError) for size in part):
                break
            progress(start, len(paths))
    return found


def _sizes_or_errors(paths: Sequence[ImageFile]) -> list[tuple[int, int] | ImageError]:
    return [_size_or_error(path) for path in paths]


def _size_or_error(path: ImageFile) -> tuple[int, int] | ImageError:
    try:
        return image_size(path)
    except ImageError as error:
        return error


def _header(file: IO[bytes] | MemberFile) -> Header | None:
    """The header in the first 16 kB of a file, or in more of it where long metadata come before the size."""
    data = b""
    for amount in READ_LENGTHS:
        data += file.read(amount - len(data)) or b""
        try:
            header = read_header(data)
            if header is not None and header.format == "PNG" and header.orientation == 1 and len(data) == amount:
                return replace(header, orientation=_orientation_at_the_end(file))
            return header
        except DamagedHeaderError as error:
            if len(data) < amount or amount == READ_LENGTHS[-1]:
                if len(data) == amount and data[:2] in (b"II", b"MM"):
                    return _header_at_the_end(file)
                raise ValueError(f"its header is damaged ({error})") from error
    return None


def _first_bytes(file: IO[bytes] | MemberFile) -> bytes:
    file.seek(0)
    return file.read(16) or b""


def _orientation_at_the_end(file: IO[bytes] | MemberFile) -> int:
    """Of a PNG whose EXIF block follows its pixels."""
    place = max(0, file.seek(0, os.SEEK_END) - _PNG_END)
    file.seek(place)
    return trailing_exif(file.read(_PNG_END) or b"")


def _header_at_the_end(file: IO[bytes] | MemberFile) -> Header | None:
    """The header of a TIFF, whose directory may lie behind its pixels."""
    with contextlib.ExitStack() as mapped:
        try:
            whole: mmap.mmap | bytes = mapped.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except UnsupportedOperation:  # in a shard
            file.seek(0)
            whole = file.read() or b""
        try:
            return read_header(whole)
        except DamagedHeaderError as error:
            raise ValueError(f"its header is damaged ({error})") from error
