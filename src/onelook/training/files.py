"""Files that are either whole or the ones before: a crash at any moment leaves something to go on with."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onelook.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes `path`'s place when the block ends without an error.

    The data is on the disk before the name changes, so that a loss of power leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_HELD: dict[Path, int] = {}  # folders that this process holds, and how often


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for it out of a folder while the block runs; UserError where one is in it.

    A block inside a block of the same process is let in. The system lifts the lock when this process ends, however it
    ends. Where it has none (on Windows, on some network drives), nobody is kept out.
    """
    place = folder.resolve()
    with contextlib.ExitStack() as stack:
        if not _HELD.get(place):
            _lock(folder, stack)
        _HELD[place] = _HELD.get(place, 0) + 1
        try:
            yield
        finally:
            _HELD[place] -= 1


def _lock(folder: Path, stack: contextlib.ExitStack) -> None:
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)  # the folder itself: files in it are replaced
    except (ImportError, OSError):
        return
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"'{folder}' is in the hands of another training at this moment.",
            "Wait until it has ended, or end it; or start another run with --out in another folder.",
        ) from None
    except OSError:
        pass


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Makes the folder that `--out` named; UserError where something else is there, or nothing may be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"'{folder}' is not a folder.", "Name another one with --out.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "Name a folder that you can write to with --out."
        raise UserError(f"The folder '{folder}' cannot be made: {reason[:1].lower() + reason[1:]}.", remedy) from error


def remove_partial_files(folder: Path) -> None:
    """Removes what a killed process left half written."""
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)
