"""A file without a name that the processes of a computer share: those of a training, and the workers of each.

It has a name only while it is empty and they meet, so that a training which is killed leaves nothing that takes room.
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
Gather = Callable[[Any], list[Any]]  # gives what every process of a training calls it with, by rank

_NO_RESERVING = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def alone(value: T) -> list[T]:
    """The `Gather` of a process that trains alone."""
    return [value]


def agreed(gather: Gather, act: Callable[[], T]) -> list[T]:
    """What `act` gives in every process, by rank. Where it fails in one it fails in all: nobody waits for that one."""
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
    """An empty file in `folder`, one for all processes that call this with the same folder of the same computer.

    file: its descriptor.  leads: whether this process is the one that gives it a size and its first content.
    told: what that process said of it.

    Goes to processes that this one starts (spawn, forkserver).
    """

    def __init__(self, folder: Path, told: Any, gather: Gather = alone) -> None:
        if sys.platform == "win32":
            raise UserError("The image cache needs files without names, which Windows does not have.", "Leave it out.")
        self.file = self._lock = -1
        self._threads = threading.Lock()
        places = (folder, memory_folder())
        token = secrets.token_hex(8)
        found = agreed(gather, lambda: (token, _identity(*places)))
        here = dict(found)[token]
        first = [identity for _, identity in found].index(here)
        self.leads = found[first][0] == token
        try:
            with contextlib.ExitStack() as names:
                offers = agreed(gather, lambda: (told, self._create(places, names)) if self.leads else (None, ("", "")))
                self.told: Any = offers[first][0]
                files = offers[first][1]
                agreed(gather, lambda: None if self.leads else self._open(*files))
        except BaseException:
            self.close()
            raise

    def _create(self, places: tuple[Path, Path], names: contextlib.ExitStack) -> tuple[str, str]:
        """Both files, whose names go when `names` does. The lock's is in memory: not all network folders have locks."""
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
        """Keeps all others out; a process that is killed inside lets them in."""
        with self._threads:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def reserve(self, start: int, size: int) -> None:
        """Takes room for these bytes; OSError where there is none.

        A file that was only given a size has no room yet: what writes to it through a mapping is ended by SIGBUS where
        there is none. macOS, and some network folders, cannot reserve any.
        """
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self.file, start, size)
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise

    def close(self) -> None:
        """The file goes when the last process has closed it, and given its mappings back."""
        for descriptor in (self.file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self.file = self._lock = -1

    def __getstate__(self) -> dict[str, Any]:
        files = (reduction.DupFd(self.file), reduction.DupFd(self._lock))
        return {"told": self.told, "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.told, self.leads, self._threads = state["told"], False, threading.Lock()
        self.file, self._lock = (file.detach() for file in state["files"])


def memory_folder() -> Path:
    """Where files lie in memory; a folder of the disk where the system has no such place."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


def _identity(*folders: Path) -> tuple[Any, ...]:
    """Tells computers apart, and folders that only have the same name: of two computers, or of two containers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    system = boot.read_text(encoding="ascii") if boot.is_file() else ""
    found = [folder.stat() for folder in folders]
    return platform.node(), system, *((folder.st_dev, folder.st_ino) for folder in found)
