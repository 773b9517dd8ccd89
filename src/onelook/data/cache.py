"""The files in which indexes are kept, and the test whether a kept index is still valid.

The rule. An index remembers name, size, modification and change time (nanoseconds) of every file it was made from. One
that differs, is missing or is new makes it stale. Times alone cannot see a file that is written twice within one tick
of a coarse file system clock; so as long as a file is younger than `FRESH` against the moment of comparison, its
content is hashed too, until the index has once been found valid at a later time. Images whose sizes were read from
their files count as such files; which ones, the index itself knows.

The place is `.onelook/` beside the data, or, where that cannot be written or is marked read-only, the user's cache
folder, or a temporary folder, with a warning. A finished file is moved into place in one step: processes that build at
once each write their own, and the last one stays. A file that is damaged, of another version or inconsistent is built
anew, never trusted.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import stat
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.index import (
    DamagedIndexError,
    Index,
    index_in_memory,
    mark_verified,
    now,
    open_if,
    open_index,
    write_index,
)
from onelook.files import replacing

FRESH = 2_000_000_000  # ns: the coarsest clock of a file system in use (FAT)
FOLDER = ".onelook"
_AT_ONCE = 4096  # files whose names and times are collected before they are packed
# What a header whose checksum is right but whose values were made up can lead to.
_OF_FORGED_HEADERS = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)

log = logging.getLogger("onelook.data")

Files = Iterable[tuple[str, str | os.DirEntry[str]]]
"""(name that stays the same when the data set moves, path or directory entry) of every file an index is made from."""


class Snapshot:
    """The present state of a set of files: one digest of all names, sizes and times; contents only of young files.

    files: returns the files in a fixed order, each time it is called; of them only the digest is kept here.
    """

    def __init__(self, files: Callable[[], Files]) -> None:
        self._files = files
        self.taken = now()
        digest, facts, newest = hashlib.blake2b(digest_size=16), array("q"), 0
        names: list[str] = []
        numbers: list[int] = []
        for name, file in files():  # run for every file at every opening, so it calls as little as it can
            if len(names) >= _AT_ONCE:
                digest.update(_terminated(names))
                facts.extend(numbers)
                names, numbers = [], []
            names.append(name)
            try:
                status = os.stat(file) if isinstance(file, str) else file.stat()
            except (OSError, ValueError):
                numbers.append(-1)
                continue
            written, changed = status.st_mtime_ns, status.st_ctime_ns
            numbers += (status.st_size, written, changed)
            if (written > newest or changed > newest) and stat.S_ISREG(status.st_mode):
                newest = max(written, changed)
        digest.update(_terminated(names))
        facts.extend(numbers)
        digest.update(facts.tobytes())
        self._newest = newest
        self.digest = digest.hexdigest()

    def any_since(self, moment: int) -> bool:
        """Whether a file may have been written at or after `moment - FRESH`."""
        return self._newest >= moment - FRESH

    def contents_since(self, moment: int) -> str:
        """Digest of the contents of all files that may have been written at or after `moment - FRESH`."""
        digest = hashlib.blake2b(digest_size=16)
        for _, file in self._files():
            status = _status(file)
            if status is None or _written(status) < moment - FRESH:
                continue
            try:
                with open(file, "rb") as stream:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
            except OSError:
                digest.update(b"missing")
            digest.update(b"\n")
        return digest.hexdigest()

    def stamp(self) -> dict[str, Any]:
        """The record of these files that is stored in an index made from them."""
        fresh = self.contents_since(self.taken) if self.any_since(self.taken) else ""
        return {"built": self.taken, "files": self.digest, "fresh": fresh}

    def agrees(self, stamp: Mapping[str, Any], verified: int) -> bool:
        """Whether the files are unchanged since the index of this stamp was made. verified: time of the last check."""
        if stamp.get("files") != self.digest:
            return False
        built = int(stamp["built"])
        return not self.any_since(min(verified, self.taken)) or self.contents_since(built) == stamp["fresh"]


def _terminated(names: Sequence[str]) -> bytes:
    return "".join([f"{name}\0" for name in names]).encode(errors="replace")


def _status(file: str | os.DirEntry[str]) -> os.stat_result | None:
    try:
        return os.stat(file) if isinstance(file, str) else file.stat()
    except (OSError, ValueError):
        return None


def _written(status: os.stat_result) -> int:
    """When an ordinary file may last have been written; 0 for others, which are never opened: a pipe would wait."""
    return max(status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else 0


def load(
    key: str,
    beside: Path,
    files: Callable[[], Files],
    build: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]],
    images: Callable[[Index], Files] = lambda index: (),
    *,
    announce: Callable[[str], None] = lambda text: None,
) -> Index:
    """The kept index under this key if it is right, else the one that `build()` makes, kept for the next time.

    key: names data set and split; part of the file name.  beside: the folder of the data set.  images: those that an
    index was made from beside `files`, in a fixed order.  announce: is told where a new folder was made for it.
    """
    snapshot = Snapshot(files)
    places = [place / _file_name(key, beside, place) for place in _places(beside)]
    for path in places:
        index = _kept(path, snapshot, images)
        if index is not None:
            return index
    stamp = snapshot.stamp()
    arrays, meta = build()
    stamp["images"] = Snapshot(partial(images, index_in_memory(arrays, meta))).stamp()
    for path in places:
        is_new = path.parent == beside / FOLDER and not path.parent.exists()
        try:
            index = _keep(path, arrays, meta, stamp)
            if is_new:
                announce(f"The index of the data is kept in '{path.parent}'; it can be deleted at any time.")
            return index
        except (OSError, DamagedIndexError):
            kept = _kept(
                path, snapshot, images
            )  # another process may have been quicker, and its file be in use (Windows)
            if kept is not None:
                return kept
    return _keep_for_now(key, arrays, meta, stamp)


def _kept(path: Path, snapshot: Snapshot, images: Callable[[Index], Files]) -> Index | None:
    try:
        opened = open_if(path, snapshot.agrees)
        if opened is None:
            return None
        index, stamp, verified = opened
        measured = Snapshot(partial(images, index))
        if not measured.agrees(stamp["images"], verified):
            return None
    except (OSError, DamagedIndexError, *_OF_FORGED_HEADERS):
        return None
    both = (snapshot, measured)
    young = any(files.any_since(files.taken) for files in both)
    if any(files.any_since(min(verified, files.taken)) for files in both) and not young:
        mark_verified(path, snapshot.taken)
    return index


def _keep(path: Path, arrays: Mapping[str, np.ndarray], meta: dict[str, Any], stamp: Mapping[str, Any]) -> Index:
    with replacing(path) as temporary:
        write_index(temporary, arrays, meta, stamp)
    return open_index(path)


def _keep_for_now(key: str, arrays: dict[str, np.ndarray], meta: dict[str, Any], stamp: dict[str, Any]) -> Index:
    """In a temporary folder that goes with this process, or in memory where not even that can be written."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="onelook-"))
        atexit.register(_remove, folder, os.getpid())
        index = _keep(folder / f"{key}.index", arrays, meta, stamp)
        log.warning("No cache folder can be written: the index is kept in '%s' for this run only.", folder)
        return index
    except (OSError, DamagedIndexError):
        log.warning("No cache folder can be written: the index is kept in memory, each process its own.")
        return index_in_memory(arrays, meta)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def user_cache() -> Path:
    """The user's folder for caches: XDG_CACHE_HOME, or what the platform has for this."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "onelook"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "onelook" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "onelook"
    return Path.home() / ".cache" / "onelook"


def _places(beside: Path) -> list[Path]:
    places = [beside / FOLDER] if _writable(beside) else []
    try:
        return [*places, user_cache() / "data"]
    except RuntimeError:  # no home folder
        return places


def _writable(folder: Path) -> bool:
    """Whether files may be put here. A folder without any write permission is left alone even by the superuser."""
    try:
        return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
    except OSError:
        return False


def _file_name(key: str, beside: Path, place: Path) -> str:
    if place.parent == beside:
        return f"{key}.index"
    where = hashlib.blake2b(os.path.realpath(beside).encode(errors="replace"), digest_size=8).hexdigest()
    return f"{beside.name[:40]}-{where}-{key}.index"
