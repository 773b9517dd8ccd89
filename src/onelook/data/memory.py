"""Memory that a process which makes pictures keeps for the next one."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_BLOCK = 32 << 20  # bytes; more, glibc does not take
_MOST_KEPT = 256 << 20  # bytes of free memory


def keep_memory() -> bool:
    """Makes the allocator of this process keep what is freed, up to 256 MiB; whether it could be told (glibc only).

    A picture is large enough for the allocator to give its memory back to the system as soon as it is freed. The next
    one then meets pages that are mapped and cleared one by one, which takes longer than many of the steps that fill it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
