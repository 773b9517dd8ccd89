"""The size of the cache of decoded images: the values of `--cache`."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelook.data.byte_size import parse_bytes
from onelook.data.split import Dataset
from onelook.errors import UsageError, did_you_mean

_PIXELS = 4 / 3  # of an image, with its smaller decodings: 1 + 1/4 + 1/16 + 1/64
_LEAST = 1 << 20  # bytes
_MOST = 0.8  # of the free memory, for a requested size; the rest is for the training itself


@dataclass(frozen=True)
class CachePlan:
    """The size and place of a cache of decoded images.

    budget: bytes of pixels, for the whole computer.  folder: where they are stored, None is memory.  needed: bytes of
    all images.  free: the bytes that are free, where the requested size is larger; else None.
    """

    budget: int
    folder: Path | None
    needed: int
    free: int | None = None

    def __str__(self) -> str:
        place = "in memory" if self.folder is None else "on disk"
        part = "all fit" if self.budget >= self.needed else f"all would need {_readable(self.needed)}"
        limit = "" if self.free is None else f", as {_readable(self.free)} are free"
        return f"Decoded images are kept {place}: up to {_readable(self.budget)}{limit}; {part}."


def plan_cache(requested: str, dataset: Dataset, folder: Path, free: int | None = None) -> CachePlan:
    """The cache for a value of `--cache`: "ram", "disk", or a size in memory such as "4GB" or "500000000".

    "ram" and "disk" take what all images need, at most half of the free space; a size takes at most four fifths of it.
    folder: of the run; "disk" uses its file system.  free: bytes, None to measure. Raises UsageError.
    """
    needed = max(int(3 * dataset.sizes.astype(np.int64).prod(1).sum() * _PIXELS), _LEAST)
    if requested in ("ram", "disk"):
        place = folder.absolute() if requested == "disk" else None
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        if free is None:
            free = _free_memory() if place is None else shutil.disk_usage(place).free
        return CachePlan(max(min(needed, free // 2), _LEAST), place, needed)
    size = parse_bytes(requested)
    if size is None:
        hint = did_you_mean(requested, ("ram", "disk"))
        raise UsageError(f"--cache '{requested}' is no place and no size.{hint}", _REMEDY)
    if size < _LEAST:
        raise UsageError(f"--cache {requested} holds no image.", _REMEDY)
    free = _free_memory() if free is None else free
    budget, most = min(size, needed), max(int(_MOST * free), _LEAST)
    return CachePlan(budget, None, needed) if budget <= most else CachePlan(most, None, needed, free)


_REMEDY = "Use ram, disk, or a size such as 4GB."


def _free_memory() -> int:
    """Bytes of free memory, or of free room for files in memory, whichever is less."""
    shared = Path("/dev/shm")
    free = [shutil.disk_usage(shared).free] if shared.is_dir() else []
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        found = None
    return min(free + ([int(found[1]) * 1024] if found is not None else [])) if free or found else 1 << 30


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
