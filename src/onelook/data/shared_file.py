"""A file without a name that the processes of a training on one computer share, with their workers.

It has a name only while it is empty and the processes open it, so that a killed training leaves no file behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from pathlib import Path
from typing import Any, TypeVar

from onelook.errors import UserError

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]  # returns the arguments of the same call in every process of a training, by rank

_NO_RESERVING = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def gather_alone(value: T) -> list[T]:
    """The `Gather` of a training in one process."""
    return [value]


def run_on_all(gather: Gather, act: Callable[[], T]) -> list[T]:
    """The results of `act` in every process, by rank. An error in one is raised in all, so that none waits for it."""
    try:
        mine: T | UserError | OSError = act()
    except (UserError, OSError) as error:
        mine = error
    found = gather(mine)
    for other in found:
        if isinstance(other, UserError | OSError):
            raise other
    return found


class SharedFile:
    """An empty file in `folder`, the same one for all processes of a training on this computer.

    file: its descriptor.  leads: whether this is the process that sets its size and first content.  settings: those of
    the leading process, in all of them.

    It can be sent to processes that this one starts (spawn, forkserver).
    """

    def __init__(self, folder: Path, settings: Any, gather: Gather = gather_alone) -> None:
        if sys.platform == "win32":
            raise UserError("The image cache needs files without names, which Windows does not have.", "Leave it out.")
        self.file = self._lock = -1
        self._threads = threading.Lock()
        places = (folder, memory_folder())
        token = secrets.token_hex(8)
        found = run_on_all(gather, lambda: (token, _identity(*places)))
        here = dict(found)[token]
        first = [identity for _, identity in found].index(here)
        self.leads = found[first][0] == token
        try:
            with contextlib.ExitStack() as names:
                offers = run_on_all(gather, lambda: self._offer(settings, places, names))
                self.settings: Any = offers[first][0]
                files = offers[first][1]
                run_on_all(gather, lambda: None if self.leads else self._open(*files))
        except BaseException:
            self.close()
            raise

    def _offer(
        self, settings: Any, places: tuple[Path, Path], names: contextlib.ExitStack
    ) -> tuple[Any, tuple[str, str]]:
        """The settings and the new files of a leading process; empty for others."""
        return (settings, self._create(places, names)) if self.leads else (None, ("", ""))

    def _create(self, places: tuple[Path, Path], names: contextlib.ExitStack) -> tuple[str, str]:
        """Makes the file and its lock, whose names `names` removes. The lock is in memory: some folders have none."""
        self.file, file = tempfile.mkstemp(dir=places[0])
        names.callback(os.unlink, file)
        self._lock, lock = tempfile.mkstemp(dir=places[1])
        names.callback(os.unlink, lock)
        return file, lock

    def _open(self, file: str, lock: str) -> None:
        self.file = os.open(file, os.O_RDWR)
        self._lock = os.open(lock, os.O_RDWR)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Excludes all other processes and threads; the system frees the lock of a killed process."""
        with self._threads:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def reserve(self, start: int, size: int) -> None:
        """Reserves room on the disk for these bytes; OSError where there is none.

        A file that only has a size has no room yet: a process that writes to it through a mapping is ended by SIGBUS
        when the disk is full. macOS and some network folders cannot reserve.
        """
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self.file, start, size)
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise

    def close(self) -> None:
        """Closes the file. It is deleted when no process has it open or mapped any more."""
        for descriptor in (self.file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self.file = self._lock = -1

    def __getstate__(self) -> dict[str, Any]:
        files = (reduction.DupFd(self.file), reduction.DupFd(self._lock))
        return {"settings": self.settings, "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.settings, self.leads, self._threads = state["settings"], False, threading.Lock()
        self.file, self._lock = (file.detach() for file in state["files"])


def memory_folder() -> Path:
    """The folder for files in memory; a folder on the disk where the system has none."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


def _identity(*folders: Path) -> tuple[Any, ...]:
    """A value that differs between computers, and between folders of one name in two containers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    system = boot.read_text(encoding="ascii") if boot.is_file() else ""
    found = [folder.stat() for folder in folders]
    return platform.node(), system, *((folder.st_dev, folder.st_ino) for folder in found)
