"""Writes files whole or not at all: after a crash, a full disk or an interrupt the previous file is still there.

Every file that the library writes goes through this module. The new content is written under a temporary name in the
same folder, brought to the disk (fsync), and renamed in one step. The file gets the rights that any new file would
have. A symbolic link is followed. A device or a pipe is written to directly, because it cannot be replaced.

`durable=False` leaves out the fsync, which takes several milliseconds: for thousands of small files that are quickly
made again, such as drawn images. After a loss of power such a file may be empty; after any other crash it is whole.

Errors of the system are raised as they are (`OSError`); the caller knows the remedy.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, overload

_PART = ".part"  # in every temporary name; `remove_leftovers` looks for it


@contextmanager
def replacing(path: str | os.PathLike[str], *, suffix: str = "", durable: bool = True) -> Iterator[Path]:
    """The name of an empty temporary file that replaces `path` when the block ends without an error.

    For libraries that write to a file by its name. Missing folders are made.

    suffix: the ending of the temporary name, for libraries that choose a format by it.
    """
    target = _regular_target(Path(path))
    if target is None:
        yield Path(path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target, suffix)
    open(temporary, "xb").close()
    rights = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        os.chmod(temporary, rights)  # a library may have made the file anew, for its user only
        if durable:
            _sync_file(temporary)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(target.parent)


def move(draft: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Puts a finished file, that a library wrote on the same disk, in the place of `path`."""
    with replacing(path) as temporary:
        os.replace(draft, temporary)


@overload
@contextmanager
def open_replacing(
    path: str | os.PathLike[str],
    mode: Literal["w"] = "w",
    *,
    errors: str | None = None,
    newline: str | None = None,
    durable: bool = True,
) -> Iterator[IO[str]]: ...


@overload
@contextmanager
def open_replacing(
    path: str | os.PathLike[str], mode: Literal["wb"], *, durable: bool = True
) -> Iterator[IO[bytes]]: ...


@contextmanager
def open_replacing(
    path: str | os.PathLike[str],
    mode: Literal["w", "wb"] = "w",
    *,
    errors: str | None = None,
    newline: str | None = None,
    durable: bool = True,
) -> Iterator[IO[Any]]:
    """A stream whose content replaces the file `path` when the block ends without an error. Text is UTF-8."""
    encoding = None if "b" in mode else "utf-8"
    with (
        replacing(path, durable=durable) as temporary,
        open(temporary, mode, encoding=encoding, errors=errors, newline=newline) as file,
    ):
        yield file


def write_text(path: str | os.PathLike[str], text: str, *, durable: bool = True) -> None:
    """Writes a text file as UTF-8, line ends as given."""
    write_bytes(path, text.encode(), durable=durable)


def write_bytes(path: str | os.PathLike[str], content: bytes | bytearray | memoryview, *, durable: bool = True) -> None:
    """Writes a binary file."""
    with open_replacing(path, "wb", durable=durable) as file:
        file.write(content)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that becomes the folder `path` when the block ends without an error, else is removed.

    `path` must not exist, or be an empty folder: nothing is overwritten. Its parent folders are made.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target, "")
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except BaseException:
        import shutil  # brings the packers of archives: too long for every start of the program

        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(target.parent)


def free_folder(base: str | os.PathLike[str]) -> Path:
    """The first of `base`, `base`-2, `base`-3 and so on that does not exist."""
    base = Path(base)
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that a killed process left in a folder."""
    for leftover in folder.glob(f".*{_PART}*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)


def _regular_target(path: Path) -> Path | None:
    """The file that a path leads to, links followed; None for a device or a pipe. Raises `OSError` for a folder."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))  # a link may lead to a file that does not exist yet
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def _temporary_name(target: Path, suffix: str) -> Path:
    # Hidden, in the same folder, and short: the name of the target may already be as long as the system allows.
    return target.with_name(f".{target.name[:40]}.{os.urandom(8).hex()}{_PART}{suffix}")


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Brings the renaming itself to the disk, on systems that let a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
