"""The images of a large work, one by one: of folders, patterns, lists and object stores. The list is never in memory.

`list_images` says what there is, in an order that is always the same; `read_image` reads one, on any machine.
"""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import IO, Any

import numpy as np

from onelook.cluster.store import file_system, local_path, read_address
from onelook.data.images import IMAGE_SUFFIXES, decode_image
from onelook.errors import ImageError, UserError, is_address, reason_of
from onelook.predict.sources import (
    UNREAD_SUFFIXES,
    VIDEO_SUFFIXES,
    Source,
    file_source,
    files_in_folder,
    listed_path,
    unreadable_folder,
)

_WEB = ("http", "https")
_NO_FOLDERS = "Give addresses of images, or a .txt list of them."


def list_images(given: Sequence[str], *, leave_out: str = "") -> Iterator[str]:
    """Paths and addresses of the images that the names stand for, in their order; folders and patterns are sorted.

    A name is an image, a folder (searched with its subfolders), a pattern, or a .txt list of one path or address a
    line, relative to the list; each on this machine or at an address that fsspec knows. leave_out: the folder of the
    results, which is not searched. UserError for a name that stands for nothing.
    """
    for text in given:
        count = 0
        for path in _expand(text, leave_out):
            yield path
            count += 1
        if not count:
            raise ImageError(f"There are no images in '{text}'.", "Name another folder, list, or the files themselves.")


def image_source(path: str) -> Source:
    """The image of a path or address as a source; with an error where it is a video, or of a kind that is not read."""
    name = posixpath.splitext(posixpath.basename(path))[0]
    if is_address(path):
        suffix = PurePath(path).suffix.lower()
        unread = suffix in UNREAD_SUFFIXES
        source = Source("video" if suffix in VIDEO_SUFFIXES else "image", path, name)
        if unread:
            reason = ImageError(f"'{path}' was left out: {suffix} files are not read.", "Convert it to JPEG or PNG.")
            source = Source("missing", path, name, error=reason)
    else:
        source = file_source(path, os.path.basename(path))
    if source.kind == "video":
        reason = ImageError(f"'{path}' is a video: shards are for images.", "Use `onelook detect` without --on.")
        return Source("missing", path, name, error=reason)
    return source


def read_image(path: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path or an address."""
    return decode_image(read_address(path), name=path) if is_address(path) else decode_image(path)


def _expand(text: str, leave_out: str) -> Iterator[str]:
    if is_address(text):
        yield from _expand_address(text, leave_out)
        return
    path = local_path(text)
    if os.path.isdir(path):
        yield from _folder(path, leave_out)
    elif any(letter in path for letter in "*?[") and not os.path.lexists(path):
        yield from sorted(os.path.abspath(one) for one in glob.iglob(path, recursive=True) if not os.path.isdir(one))
    elif not os.path.lexists(path):
        raise ImageError(f"'{path}' does not exist.", "Check the path.")
    elif PurePath(path).suffix.lower() == ".txt":
        try:
            with open(path, encoding="utf-8-sig") as lines:
                yield from _listed(lines, path, os.path.dirname(os.path.abspath(path)))
        except OSError as error:
            raise ImageError(f"The list '{path}' cannot be read: {reason_of(error)}.", "Check the file.") from error
    else:
        yield os.path.abspath(path)


def _folder(path: str, leave_out: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise unreadable_folder(error)

    hidden = None if is_address(leave_out) or not leave_out else os.path.realpath(local_path(leave_out))
    yield from files_in_folder(os.path.abspath(path), hidden, onerror=refuse)


def _listed(lines: IO[str], text: str, folder: str) -> Iterator[str]:
    try:
        for number, line in enumerate(lines, 1):
            path = listed_path(line, number, text)
            if path is not None and not is_address(path):
                path = local_path(path)
                if is_address(folder):
                    path = posixpath.join(folder, path)
                else:
                    path = path if os.path.isabs(path) else os.path.join(folder, path)
            if path is not None:
                yield path
    except UnicodeDecodeError as error:
        raise ImageError(f"'{text}' is not a list of paths: it is no UTF-8 text.", "Give one path a line.") from error


def _expand_address(text: str, leave_out: str) -> Iterator[str]:
    system, path = file_system(text)
    web = text.partition("://")[0].lower() in _WEB
    try:
        if PurePath(path.partition("?")[0]).suffix.lower() == ".txt":
            with system.open(path, "r", encoding="utf-8-sig") as lines:
                yield from _listed(lines, text, posixpath.dirname(text))
        elif web:
            if text.endswith("/"):
                raise ImageError(f"'{text}' is no image: a web server does not list its folders.", _NO_FOLDERS)
            yield text
        elif any(letter in path for letter in "*?["):
            yield from (system.unstrip_protocol(one) for one in sorted(system.glob(path)))
        elif system.info(path)["type"] == "directory":
            hidden = file_system(leave_out)[1] if is_address(leave_out) else ""
            yield from _walk(system, path, hidden)
        else:
            yield text
    except FileNotFoundError as error:
        raise ImageError(f"'{text}' does not exist.", "Check the address.") from error
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(f"'{text}' cannot be listed: {said}", "Check the address and the credentials.") from error


def _walk(system: Any, folder: str, hidden: str) -> Iterator[str]:
    """The images of a folder, then those of its subfolders, by name; hidden ones are left out, as on a disk."""
    entries = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES | UNREAD_SUFFIXES
    subfolders = []
    for entry in entries:
        path = str(entry["name"]).rstrip("/")
        if posixpath.basename(path).startswith(".") or path == folder.rstrip("/"):
            continue
        if entry["type"] == "directory":
            subfolders.append(path)
        elif PurePath(path).suffix.lower() in known:
            yield system.unstrip_protocol(path)
    for path in subfolders:
        if path != hidden.rstrip("/"):
            yield from _walk(system, path, hidden)
