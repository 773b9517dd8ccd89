"""Images that show nearly the same: equal but for size, compression, brightness or a few pixels.

The difference hash (dHash): the signs of the differences of neighbouring pixels of a tiny grey image, 64 along rows and
64 along columns. Two images are near-duplicates where at most `MOST_BITS` of the 128 signs differ, and the tiny images
themselves differ little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from onelook.data.images import decode_image
from onelook.data.sizes import image_size
from onelook.devices import num_cores
from onelook.errors import ImageError
from onelook.reporter import Progress, ignore_progress

SIDE = 9  # pixels of the tiny image, whose 9 x 8 and 8 x 9 differences are the signs
MOST_BITS = 7  # of 128; unrelated photographs differ in about half of them
MOST_LEVELS = 16.0  # of 255, mean difference of the tiny images
_BANDS = 8  # of 16 bits: where at most 7 bits differ, one of 8 bands is equal
_ROWS_AT_ONCE = 256
_LEAST_SIDE = 64  # pixels: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but not smaller than this


def tiny_images(paths: Sequence[str], progress: Progress = ignore_progress) -> np.ndarray:
    """(I, 9, 9) float32 grey images of 0 to 255, NaN where an image cannot be read."""
    found = np.full((len(paths), SIDE, SIDE), np.nan, np.float32)

    def one(path: str) -> np.ndarray | None:
        try:
            level = min(3, max(0, (min(image_size(path)) // _LEAST_SIDE).bit_length() - 1))
            image = decode_image(path, level=level)
        except ImageError:
            return None
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    with ThreadPoolExecutor(min(8, num_cores())) as pool:
        for start in range(0, len(paths), 64):
            for row, image in enumerate(pool.map(one, paths[start : start + 64]), start):
                if image is not None:
                    found[row] = image
            progress(min(start + 64, len(paths)), len(paths))
    return found


def difference_hashes(tiny: np.ndarray) -> np.ndarray:
    """(I, 16) uint8: 128 signs each; zeros for an image that could not be read."""
    along = tiny[:, :8, 1:] > tiny[:, :8, :-1]
    down = tiny[:, 1:, :8] > tiny[:, :-1, :8]
    bits = np.concatenate([along.reshape(len(tiny), 64), down.reshape(len(tiny), 64)], axis=1)
    return np.packbits(bits, axis=1)


def near_duplicates(tiny: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows (first, second) of images that are near-duplicates, in many parts; a pair may come twice.

    Only images that share one of eight bands of their hashes are compared, which finds every pair.
    """
    hashes = difference_hashes(tiny)
    readable = np.flatnonzero(np.isfinite(tiny).all(axis=(1, 2)))
    bands = hashes.reshape(len(hashes), _BANDS, 2)
    for band in range(_BANDS):
        keys = bands[readable, band, 0].astype(np.int64) * 256 + bands[readable, band, 1]
        order = readable[np.argsort(keys, kind="stable")]
        ends = np.flatnonzero(np.diff(np.sort(keys))) + 1
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                yield from _pairs_in(bucket, hashes, tiny)


_BITS = np.array([value.bit_count() for value in range(256)], np.uint8)


def _pairs_in(bucket: np.ndarray, hashes: np.ndarray, tiny: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(bucket), _ROWS_AT_ONCE):
        rows, others = bucket[start : start + _ROWS_AT_ONCE], bucket[start:]
        distance = sum(
            _BITS[hashes[rows, None, byte] ^ hashes[None, others, byte]].astype(np.int16) for byte in range(16)
        )
        first, second = np.nonzero(np.asarray(distance) <= MOST_BITS)
        first, second = rows[first], others[second]
        later = second > first
        first, second = first[later], second[later]
        same = mean_difference(tiny, first, second) <= MOST_LEVELS
        if same.any():
            yield first[same], second[same]


def mean_difference(tiny: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) mean absolute difference of the tiny images of pairs of rows, in levels of 0 to 255; inf for unread ones."""
    found = np.empty(len(first), np.float64)
    for start in range(0, len(first), 1 << 16):
        part = slice(start, start + (1 << 16))
        found[part] = np.abs(tiny[first[part]] - tiny[second[part]]).mean(axis=(1, 2))
    return np.nan_to_num(found, nan=np.inf)
