"""Keeps the memory of freed images in the process, for the next image."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_BLOCK = 32 << 20  # bytes; glibc accepts no more
_MOST_KEPT = 256 << 20  # bytes of free memory


def keep_memory() -> bool:
    """Makes the allocator of this process keep up to 256 MiB of freed memory; False where it cannot (not glibc).

    An image is so large that the allocator returns its memory to the system as soon as it is freed. The next image then
    needs new pages, which are mapped and cleared one by one: that takes longer than many of the steps that fill it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
