"""Safe access to the files of a data set: names inside it, walks without loops, texts of bounded size."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from operator import attrgetter
from pathlib import Path, PurePosixPath, PureWindowsPath

from onelook.data.headers import IMAGE_SUFFIXES
from onelook.errors import DataError, reason_of

DEPTH_LIMIT = 32
FOLDER_LIMIT = 50_000
LIST_LIMIT = 1 << 30  # bytes of a list of images: about ten million paths
_USUAL_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)
_name_of = attrgetter("name")
_SYSTEM = re.compile(r"(?:/proc|/sys|/dev(?!/shm/))(?:/.*)?", re.DOTALL)  # /dev/shm/... is a disk in memory


def plain_name(name: object) -> str | None:
    """A file name from an annotation as a clean relative path with forward slashes; None where it is unusable.

    Unusable is a name that is no text, is empty or absolute, holds control characters, or leads out of its folder. A
    colon is a letter like others, except in an absolute path (`C:/a.jpg`), and on Windows in a drive (`a:b`).
    """
    if isinstance(name, str) and len(name) <= 4096 and _USUAL_NAME.fullmatch(name):
        return name
    if not isinstance(name, str) or not name.strip() or len(name) > 4096 or any(ord(mark) < 32 for mark in name):
        return None
    name = name.replace("\\", "/")
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.is_absolute() or (os.name == "nt" and windows.drive):
        return None
    parts: list[str] = []
    for part in PurePosixPath(name).parts:
        if part == "..":
            if not parts:
                return None
            parts.pop()
        else:
            parts.append(part)
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        return None
    return "/".join(parts) or None


def why_unusable(name: object) -> str:
    """What is wrong with a name that `plain_name` refuses, to follow "the name"."""
    if isinstance(name, str) and any(ord(mark) < 32 for mark in name):
        return "must not hold a tab, a line break or another control character"
    return "must be a path inside the data set"


def other_spelling(path: str | os.PathLike[str]) -> str:
    """A sentence that names the file of the same letters in another form, where `path` does not exist; "" without one.

    Unicode has two forms of letters such as \u00e9: one character, or a letter and an accent. They look alike.
    """
    folder, name = os.path.split(os.fspath(path))
    if name.isascii():  # has one form
        return ""
    import unicodedata  # tables of a megabyte, for names of missing files

    folder = folder or "."
    try:
        there = _names_by_form(folder, os.stat(folder).st_mtime_ns).get(unicodedata.normalize("NFC", name))
    except (OSError, ValueError):
        return ""
    if there is None or os.path.lexists(path):
        return ""
    given, there = (ascii(text)[1:-1] for text in (name, there))
    return f" A file of this name in another Unicode form is there: the given one is {given}, the file is {there}."


@lru_cache(maxsize=4)
def _names_by_form(folder: str, changed: int) -> dict[str, str]:
    """The names in a folder by their composed form. changed: its time; so a list of missing files reads it once."""
    import unicodedata

    return {unicodedata.normalize("NFC", name): name for name in os.listdir(folder) if not name.isascii()}


def is_image(name: str) -> bool:
    """Whether the file's ending is one of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder. Hidden names are left out; links are followed, but no folder is entered twice."""
    place = os.path.realpath(folder)
    if place == os.path.dirname(place) or _SYSTEM.fullmatch(place):
        raise DataError(f"'{folder}' is a folder of the system, not of images.", "Name the folder of the images.")
    seen: set[tuple[int, int]] = set()
    stack = [(str(folder), 0)]
    while stack:
        place, depth = stack.pop()
        try:
            status = os.stat(place)
            entries = sorted(os.scandir(place), key=_name_of, reverse=True)
        except OSError as error:
            raise DataError(
                f"The folder '{place}' cannot be read: {reason_of(error)}.", "Check permissions."
            ) from error
        if (status.st_dev, status.st_ino) in seen or depth > DEPTH_LIMIT:
            continue
        seen.add((status.st_dev, status.st_ino))
        if len(seen) > FOLDER_LIMIT:
            raise DataError(f"'{folder}' holds more than {FOLDER_LIMIT:,} folders.", "Name the folder of the images.")
        while entries:
            entry = entries.pop()  # an entry keeps its results of stat: each is freed at once
            if entry.name[0] == ".":
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link that leads to itself
                is_folder = False
            if is_folder:
                stack.append((entry.path, depth + 1))
            else:
                yield entry


def images_below(folder: Path) -> list[str]:
    """The images below a folder, sorted, as paths relative to it with forward slashes."""
    start = len(str(folder)) + (not str(folder).endswith(os.sep))
    found = (entry.path[start:].replace(os.sep, "/") for entry in walk_files(folder) if is_image(entry.name))
    return sorted(found)


def entries_ending(folder: str | Path, *endings: str) -> list[Path]:
    """What is in a folder under names with one of these endings, sorted; [] where the folder cannot be read.

    The same as `glob` of "*" and the ending, at half of its time. endings: in lower case, as Windows compares names.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(Path(folder, name) for name in names if os.path.normcase(name).endswith(endings))


def has_images(folder: Path) -> bool:
    """Whether a folder or one below it holds an image."""
    return os.path.isdir(folder) and any(is_image(entry.name) for entry in walk_files(folder))


def read_bytes(path: str | Path, limit: int) -> bytes:
    """A file's content. Raises `DataError` for what cannot be read or is longer than `limit` bytes."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block for ever
            raise DataError(f"'{path}' is not an ordinary file.", "Replace it by a file.")
        with open(path, "rb", buffering=0) as file:
            size = min(limit, os.fstat(file.fileno()).st_size)  # as many bytes as requested are allocated
            data = file.read(size + 1)
            while len(data) < size and (more := file.read(size + 1 - len(data))):
                data += more
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {reason_of(error)}.", "Check the file.") from error
    if len(data) > limit:
        raise DataError(f"'{path}' is longer than {limit:,} bytes, more than any annotation.", "Check the file.")
    return data


def first_bytes(path: Path, count: int) -> bytes:
    """The beginning of a file, for finding out what it is; b"" for what is no ordinary file, or cannot be read."""
    try:
        if not path.is_file():  # opening a pipe would block for ever
            return b""
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def read_text(path: str | Path, limit: int) -> str:
    """A text file: UTF-8 with or without a byte order mark, UTF-16 with one. Raises `DataError` for anything else."""
    data = read_bytes(path, limit)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not a text file.", "It must hold UTF-8 text.") from None
    if "\0" in text:
        raise DataError(f"'{path}' is not a text file: it holds zero bytes.", "It must hold UTF-8 text.")
    return text
