"""Decodes and resizes the images of a data set in background threads, and yields them in batches.

OpenCV decodes and resizes without Python's lock, so threads are enough: no process is started, no pixel is copied to
another one. What waits is bounded by a few batches, whatever the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from onelook.augment.letterbox import Resize, ResizeTransform
from onelook.devices import num_cores
from onelook.evaluation.rectangular import Group

_BATCHES_AHEAD = 2  # decoded before they are asked for; one alone would leave threads idle at each batch's end


class Images(Protocol):
    """The images of a data set, by row."""

    def image(self, row: int, /) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Resized images. pixels: (B, H, W, 3) uint8 RGB, valid until the next batch is made.

    seconds: what decoding and framing took, summed over the threads.
    """

    pixels: np.ndarray
    rows: tuple[int, ...]
    placements: tuple[ResizeTransform, ...]
    seconds: float


def default_workers() -> int:
    """As many threads as the process has cores, up to 8: beyond, the model waits for memory instead."""
    return min(8, num_cores())


def resized_batches(
    images: Images, groups: Sequence[Group], frame: Resize, *, workers: int | None = None
) -> Iterator[Batch]:
    """Yields the images of every group, resized to its input size, in this order.

    An image that cannot be decoded raises where its batch would come. Leaving the loop early, by an error or Ctrl-C,
    stops the threads after the images they are at.
    """
    largest = max((len(rows) * height * width * 3 for rows, (height, width) in groups), default=0)
    # One buffer is in use by the model, the others are being filled.
    free = [np.empty(largest, np.uint8) for _ in range(min(_BATCHES_AHEAD + 1, len(groups)))]
    upcoming = iter(groups)
    filling: deque[_Filling] = deque()
    pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="onelook-decode")
    try:
        while True:
            while free and (group := next(upcoming, None)):
                (rows, size), buffer = group, free.pop()
                shape = (len(rows), *size, 3)
                pixels = buffer[: len(rows) * size[0] * size[1] * 3].reshape(shape)
                futures = [pool.submit(_fill, images, row, frame, size, slot) for row, slot in zip(rows, pixels)]
                filling.append((rows, buffer, pixels, futures))
            if not filling:
                return
            rows, buffer, pixels, futures = filling.popleft()
            filled = [future.result() for future in futures]
            placements, seconds = tuple(done[0] for done in filled), sum(done[1] for done in filled)
            yield Batch(pixels, rows, placements, seconds)
            free.append(buffer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# Rows, the buffer that their pixels lie in, these, and what becomes of each.
_Filling = tuple[tuple[int, ...], np.ndarray, np.ndarray, list[Future[tuple[ResizeTransform, float]]]]


def _fill(
    images: Images, row: int, frame: Resize, size: tuple[int, int], slot: np.ndarray
) -> tuple[ResizeTransform, float]:
    start = perf_counter()
    framed, placement = frame(images.image(row), size)
    slot[:] = framed
    return placement, perf_counter() - start
