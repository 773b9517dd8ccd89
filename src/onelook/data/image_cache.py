"""A cache of decoded images that several processes share, in memory or in a file on disk, within a budget.

It never changes a result, only the time: an entry is exactly the decoded image. The pages belong to one file without a
name (in `/dev/shm` for memory), so that the processes of a training and their workers hold no copies, and no file is
left behind, however the training ends.
"""

from __future__ import annotations

import mmap
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from onelook.augment.lazy_sample import MAX_LEVEL
from onelook.data.shared_file import Gather, SharedFile, gather_alone, memory_folder, run_on_all
from onelook.errors import ConfigError, UserError, reason_of

_LEVELS = MAX_LEVEL + 1
_NEVER = 1 << 62
_SLOT = np.dtype([("start", "<i8"), ("height", "<i4"), ("width", "<i4")])
_HEAD = 64  # bytes in front of the table, as int64: _NEXT, _RESERVED, _LIMIT
_NEXT = 0  # where the next image goes; never wraps
_RESERVED = 1  # bytes of pixels that have room for certain
_LIMIT = 2  # bytes of pixels that there may be: the budget, or less once the room has run out
_STEP = 64 << 20  # bytes that are reserved at a time


class ImageCache:
    """Images by row and level of decoding.

    rows: of the data set.  budget: bytes of pixels.  rotating: whether new images replace the oldest ones (a pool for
    images that are used again soon); otherwise a full cache takes no more images.  folder: of the file; None is memory.
    gather: collects a value from every process of a training; all of them must make this cache: there is one a
    computer, with the budget of its first process. Raises `UserError` where there is no room for the budget.

    Memory is reserved as images are added, since the whole budget is often much more than is ever used (see
    `TrainingImages.read`). Where other programs have taken it meanwhile, the cache grows no further; a rotating one
    reserves its whole budget at once.

    `get` and `put` may be called by any process that the cache was sent to when it was started (spawn, forkserver).
    """

    def __init__(
        self,
        rows: int,
        budget: int,
        *,
        rotating: bool = False,
        folder: Path | None = None,
        gather: Gather = gather_alone,
    ) -> None:
        if budget < 1 << 20:
            raise ConfigError(f"An image cache of {budget} bytes holds no image.", "Choose some hundred megabytes.")
        place = Path(folder) if folder is not None else memory_folder()
        self._shared = SharedFile(place, (rows, budget, rotating), gather)
        try:
            self._agree()
            run_on_all(gather, lambda: self._begin(place) if self._shared.leads else None)
            self._map()
        except BaseException:
            self.close()
            raise

    def _agree(self) -> None:
        self.rows, self.budget, self.rotating = self._shared.settings
        self._table = _HEAD + self.rows * _LEVELS * _SLOT.itemsize

    def _begin(self, place: Path) -> None:
        """Makes the file an empty cache."""
        size = self._table + self.budget
        free = shutil.disk_usage(place).free
        first = self.budget if self.rotating else min(_STEP, self.budget)
        try:
            if free < size:
                raise OSError
            os.ftruncate(self._shared.file, size)
            self._shared.reserve(0, self._table + first)
        except OSError as error:
            raise UserError(
                f"The image cache needs {size / 2**20:.0f} MiB in '{place}', where {free / 2**20:.0f} MiB are free"
                f"{f' ({reason_of(error)})' if error.strerror else ''}.",
                "Choose a smaller budget, or a folder with more room.",
            ) from None
        self._map()
        self._slots["start"] = -1
        self._head[_RESERVED], self._head[_LIMIT] = first, self.budget

    def _map(self) -> None:
        self._oldest = _NEVER
        self._memory = mmap.mmap(self._shared.file, self._table + self.budget)
        self._head = np.frombuffer(self._memory, np.int64, 3)
        self._slots = np.frombuffer(self._memory, _SLOT, self.rows * _LEVELS, _HEAD).reshape(self.rows, _LEVELS)
        self._pixels = np.frombuffer(self._memory, np.uint8, self.budget, self._table)

    def get(self, row: int, level: int) -> np.ndarray | None:
        """(H, W, 3) uint8, read-only; None where it is not there. See `all_unchanged` for a rotating cache."""
        start, height, width = self._slots[row, level].tolist()
        if start < 0:
            return None
        if self.rotating:
            # Not among those that are overwritten next.
            if start < int(self._head[_NEXT]) - self.budget + self.budget // 4:
                return None
            self._oldest = min(self._oldest, start)
        place = start % self.budget
        view = self._pixels[place : place + height * width * 3].reshape(height, width, 3)
        view.flags.writeable = False
        return view

    def all_unchanged(self) -> bool:
        """Whether none of the images that `get` returned since the last call of this was overwritten meanwhile.

        Always true without `rotating`. Where it is false, a sample made from these images has to be made again.
        """
        oldest, self._oldest = self._oldest, _NEVER
        if oldest == _NEVER:
            return True
        if self._shared.file < 0:
            return False
        with self._shared.locked():
            return oldest >= int(self._head[_NEXT]) - self.budget

    def put(self, row: int, level: int, image: np.ndarray) -> None:
        """Keeps a copy of (H, W, 3) uint8, where there is room."""
        size, (height, width) = image.size, image.shape[:2]
        if size > self.budget or self._shared.file < 0:
            return
        with self._shared.locked():
            slot, head = self._slots[row, level], int(self._head[_NEXT])
            if slot["start"] >= 0 and (not self.rotating or slot["start"] >= head - self.budget):
                return  # another process has added it meanwhile
            start = head
            if start % self.budget + size > self.budget:  # no image lies across the end
                start += self.budget - start % self.budget
            if not self.rotating and not self._has_room(start + size):
                return
            # Readers must find the overwritten images gone before their pixels change.
            self._head[_NEXT] = start + size
            place = start % self.budget
            self._pixels[place : place + size] = image.reshape(-1)
            slot["height"], slot["width"] = height, width
            slot["start"] = start

    def _has_room(self, end: int) -> bool:
        """Whether there is room up to this byte of the pixels. The caller holds the lock."""
        if end > self._head[_LIMIT]:
            return False
        reserved = int(self._head[_RESERVED])
        if end > reserved:
            more = min(max(_STEP, end - reserved), self.budget - reserved)
            try:
                self._shared.reserve(self._table + reserved, more)
            except OSError:
                self._head[_LIMIT] = reserved
                return False
            self._head[_RESERVED] = reserved + more
        return True

    @property
    def used(self) -> int:
        """Bytes of pixels in it."""
        return min(int(self._head[_NEXT]), self.budget)

    def close(self) -> None:
        """Frees the memory as soon as no image from `get` is in use any more."""
        self._shared.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_shared": self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shared = state["_shared"]
        self._agree()
        self._map()
