"""The folder of a run: creates it, and locks it against a second training."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from onelook.errors import UserError, reason_of

_LONGEST_END = 60.0  # seconds that a training of before may take to end
_LOCKED: dict[Path, int] = {}  # folders that this process has locked, and how often


@contextlib.contextmanager
def locked_folder(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Locks a folder against other processes while the block runs; UserError where another process has locked it.

    The lock is reentrant within a process. The system releases it when the process ends, however it ends.
    warn: called with a message where the system has no such lock (Windows, some network drives).
    """
    path = folder.resolve()
    with contextlib.ExitStack() as stack:
        if not _LOCKED.get(path):
            try:
                _lock(folder, stack)
            except (ImportError, OSError) as error:
                warn(
                    f"The folder '{folder}' cannot be locked ({error}): make sure that no other training writes to it."
                )
        _LOCKED[path] = _LOCKED.get(path, 0) + 1
        try:
            yield
        finally:
            _LOCKED[path] -= 1


@contextlib.contextmanager
def locked_when_free(folder: Path) -> Iterator[None]:
    """Locks the folder of a run once its training of before has ended; UserError where it has not within a minute.

    A worker of a cluster ends a moment after the program that it worked for was killed.
    """
    make_folder(folder)
    ends = time.monotonic() + _LONGEST_END
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked_folder(folder, lambda text: None))
                break
            except UserError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.5)
        yield


def _lock(folder: Path, stack: contextlib.ExitStack) -> None:
    """Locks a folder until `stack` is closed. UserError where it is locked; OSError where it cannot be locked."""
    import fcntl  # which Windows does not have

    handle = os.open(folder, os.O_RDONLY)  # the folder itself: the files in it are replaced
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"Another training is running in '{folder}'.",
            "Wait until it has ended, or stop it; or start another run in another folder (out).",
        ) from None


def make_folder(folder: Path) -> None:
    """Creates the folder of a run; UserError where a file has that name, or the folder cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"'{folder}' is not a folder.", "Give another one (out).") from None
    except OSError as error:
        remedy = "Give a folder that you can write to (out)."
        raise UserError(f"The folder '{folder}' cannot be created: {reason_of(error)}.", remedy) from error
