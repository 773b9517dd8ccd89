"""Decoded images that several processes share: in memory within a budget, or in a file on disk.

What is in it never changes a result, only the time: an entry is exactly what decoding gives. The pages belong to one
file without a name (in `/dev/shm` for memory), so that worker processes hold no copies and nothing is left behind,
however the training ends.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import shutil
import sys
import tempfile
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np

from onelook.augment.source import MAX_LEVEL
from onelook.errors import ConfigError, UserError

_LEVELS = MAX_LEVEL + 1
_NEVER = 1 << 62
_SLOT = np.dtype([("start", "<i8"), ("height", "<i4"), ("width", "<i4")])
_HEAD = 64  # bytes in front of the table: where the next image goes (never wraps), as one int64


class ImageCache:
    """Images by row and level of decoding.

    rows: of the data set.  budget: bytes of pixels.  rotating: whether the oldest images make room for new ones (a
    pool for images that are wanted again soon); otherwise what is in stays, and what comes when it is full does not
    get in.  folder: where the file lies; None is memory. Raises `UserError` where there is no room for the budget.

    `get` and `put` may be called by any process that the cache was sent to when it was started (spawn, forkserver).
    """

    def __init__(self, rows: int, budget: int, *, rotating: bool = False, folder: Path | None = None) -> None:
        if budget < 1 << 20:
            raise ConfigError(f"An image cache of {budget} bytes holds nothing.", "Give it some hundred megabytes.")
        if sys.platform == "win32":
            raise UserError("The image cache needs files without names, which Windows does not have.", "Leave it out.")
        self.rows, self.budget, self.rotating = rows, budget, rotating
        self._table = _HEAD + rows * _LEVELS * _SLOT.itemsize
        size = self._table + budget
        place = Path(folder) if folder is not None else _memory_folder()
        free = shutil.disk_usage(place).free
        if free < size:
            raise UserError(
                f"The image cache wants {size / 2**20:.0f} MiB in '{place}', where {free / 2**20:.0f} MiB are free.",
                "Give it a smaller budget, or a folder with more room.",
            )
        self._file, name = tempfile.mkstemp(dir=place)
        os.unlink(name)
        os.ftruncate(self._file, size)
        self._lock = multiprocessing.get_context("spawn").Lock()
        self._map()
        self._slots["start"] = -1

    def _map(self) -> None:
        self._oldest = _NEVER
        self._memory = mmap.mmap(self._file, self._table + self.budget)
        self._head = np.frombuffer(self._memory, np.int64, 1)
        self._slots = np.frombuffer(self._memory, _SLOT, self.rows * _LEVELS, _HEAD).reshape(self.rows, _LEVELS)
        self._pixels = np.frombuffer(self._memory, np.uint8, self.budget, self._table)

    def get(self, row: int, level: int) -> np.ndarray | None:
        """(H, W, 3) uint8, read-only; None where it is not there. See `settle` for a rotating cache."""
        start, height, width = self._slots[row, level].tolist()
        if start < 0:
            return None
        if self.rotating:
            # Not among those that are overwritten next.
            if start < int(self._head[0]) - self.budget + self.budget // 4:
                return None
            self._oldest = min(self._oldest, start)
        place = start % self.budget
        view = self._pixels[place : place + height * width * 3].reshape(height, width, 3)
        view.flags.writeable = False
        return view

    def settle(self) -> bool:
        """Whether all images that `get` gave since the last call were whole until now: nothing was written over them.

        Always true without `rotating`. What was made of them is good if they were, and has to be made again if not.
        """
        oldest, self._oldest = self._oldest, _NEVER
        if oldest == _NEVER:
            return True
        with self._lock:
            return oldest >= int(self._head[0]) - self.budget

    def put(self, row: int, level: int, image: np.ndarray) -> None:
        """Keeps a copy of (H, W, 3) uint8, where there is room."""
        size, (height, width) = image.size, image.shape[:2]
        if size > self.budget:
            return
        with self._lock:
            slot, head = self._slots[row, level], int(self._head[0])
            if slot["start"] >= 0 and (not self.rotating or slot["start"] >= head - self.budget):
                return  # another process was quicker
            start = head
            if start % self.budget + size > self.budget:  # no image lies across the end
                start += self.budget - start % self.budget
            if not self.rotating and start + size > self.budget:
                return
            # Readers must see the images that are written over disappear before they do.
            self._head[0] = start + size
            place = start % self.budget
            self._pixels[place : place + size] = image.reshape(-1)
            slot["height"], slot["width"] = height, width
            slot["start"] = start

    @property
    def used(self) -> int:
        """Bytes of pixels in it."""
        return min(int(self._head[0]), self.budget)

    def close(self) -> None:
        """Gives the memory back; the images handed out go on living."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name in ("rows", "budget", "rotating")}
        return {**state, "_table": self._table, "_lock": self._lock, "_file": reduction.DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = state["_file"].detach()
        self._map()


def _memory_folder() -> Path:
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())
