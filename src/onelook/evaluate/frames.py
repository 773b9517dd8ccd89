"""Framed images of a data set in batches, decoded by background threads while the model works on the batch before.

OpenCV decodes and resizes without Python's lock, so threads are enough: no process is started, no pixel is copied to
another one. What waits is bounded by a few batches, whatever the number of images.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from onelook.augment.frame import Frame, Placement

_BATCHES_AHEAD = 2  # decoded before they are asked for; one alone would leave threads idle at each batch's end


class Images(Protocol):
    """The images of a data set, by row."""

    def image(self, row: int, /) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Framed images: pixels (B, H, W, 3) uint8 RGB, valid until the next batch is asked for, and where they came from.

    seconds: what decoding and framing took, summed over the threads.
    """

    pixels: np.ndarray
    rows: tuple[int, ...]
    placements: tuple[Placement, ...]
    seconds: float


def default_workers() -> int:
    """As many threads as the process has cores, up to 8: beyond, the model waits for memory instead."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(8, cores)


def framed_batches(
    images: Images, rows: Sequence[int], frame: Frame, size: tuple[int, int], *, batch: int, workers: int | None = None
) -> Iterator[Batch]:
    """The images of `rows` in this order, in batches of `batch` (the last may be smaller).

    An image that cannot be decoded raises where its batch would come. Leaving the loop early, by an error or Ctrl-C,
    stops the threads after the images they are at.
    """
    groups = [tuple(rows[start : start + batch]) for start in range(0, len(rows), batch)]
    # One buffer is in use by the model, the others are being filled.
    free = [np.empty((batch, *size, 3), np.uint8) for _ in range(min(_BATCHES_AHEAD + 1, len(groups)))]
    upcoming = iter(groups)
    filling: deque[tuple[tuple[int, ...], np.ndarray, list[Future[tuple[Placement, float]]]]] = deque()
    pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="onelook-decode")
    try:
        while True:
            while free and (group := next(upcoming, None)):
                pixels = free.pop()
                filling.append(
                    (
                        group,
                        pixels,
                        [pool.submit(_fill, images, row, frame, size, slot) for row, slot in zip(group, pixels)],
                    )
                )
            if not filling:
                return
            group, pixels, futures = filling.popleft()
            filled = [future.result() for future in futures]
            placements, seconds = tuple(done[0] for done in filled), sum(done[1] for done in filled)
            yield Batch(pixels[: len(group)], group, placements, seconds)
            free.append(pixels)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fill(images: Images, row: int, frame: Frame, size: tuple[int, int], slot: np.ndarray) -> tuple[Placement, float]:
    start = perf_counter()
    framed, placement = frame(images.image(row), size)
    slot[:] = framed
    return placement, perf_counter() - start
