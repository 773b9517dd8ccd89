"""How much memory, or disk, decoded images may take: what `--cache` means."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelook.data.dataset import Dataset
from onelook.errors import UsageError, did_you_mean

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PIXELS = 4 / 3  # of an image, with its smaller decodings: 1 + 1/4 + 1/16 + 1/64
_LEAST = 1 << 20  # bytes
_MOST = 0.8  # of what is free, for a size that was asked for; the rest is for the training itself


@dataclass(frozen=True)
class CachePlan:
    """budget: bytes of pixels, once a computer.  folder: where they lie, None is memory.  needed: bytes of all images.

    free: where a size was asked for that is too large, the bytes that are free.
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


def plan_cache(wish: str, dataset: Dataset, folder: Path, free: int | None = None) -> CachePlan:
    """The cache that "ram", "disk", or a size such as "4GB" or "500000000" (of memory) asks for.

    "ram" and "disk" take what all images need, but never more than half of what is free; a size is never more than
    four fifths of it. folder: of the run, in whose file system "disk" lies.  free: bytes, None for what the system
    says. Raises UsageError.
    """
    needed = max(int(3 * dataset.sizes.astype(np.int64).prod(1).sum() * _PIXELS), _LEAST)
    if wish in ("ram", "disk"):
        place = folder.absolute() if wish == "disk" else None
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        if free is None:
            free = _free_memory() if place is None else shutil.disk_usage(place).free
        return CachePlan(max(min(needed, free // 2), _LEAST), place, needed)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", wish.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"--cache '{wish}' is no place and no size.{did_you_mean(wish, ('ram', 'disk'))}", _REMEDY)
    asked = int(float(found[1]) * _UNITS[found[2].upper()])
    if asked < _LEAST:
        raise UsageError(f"--cache {wish} holds no image.", _REMEDY)
    free = _free_memory() if free is None else free
    budget, most = min(asked, needed), max(int(_MOST * free), _LEAST)
    return CachePlan(budget, None, needed) if budget <= most else CachePlan(most, None, needed, free)


_REMEDY = "Use ram, disk, or a size such as 4GB."


def _free_memory() -> int:
    """Bytes that are free in memory, and for files in memory."""
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
