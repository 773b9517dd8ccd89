"""Shared decoded images: what comes out went in, whoever asks, and room is never exceeded."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from onelook.data.image_cache import ImageCache
from onelook.errors import ConfigError, UserError

MEGABYTE = 1 << 20


def picture(seed: int, side: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + seed % 7, 3), dtype=np.uint8)


def test_images_come_back_as_they_went_in() -> None:
    cache = ImageCache(10, 4 * MEGABYTE)
    cache.put(3, 0, picture(3))
    cache.put(3, 1, picture(4, 50))
    found = cache.get(3, 0)
    assert found is not None and not found.flags.writeable
    np.testing.assert_array_equal(found, picture(3))
    np.testing.assert_array_equal(cache.get(3, 1), picture(4, 50))
    assert cache.get(3, 2) is None and cache.get(4, 0) is None
    assert cache.used == picture(3).size + picture(4, 50).size
    cache.close()
    np.testing.assert_array_equal(found, picture(3))


def test_a_full_cache_takes_nothing_more() -> None:
    cache = ImageCache(20, MEGABYTE)
    for row in range(20):
        cache.put(row, 0, picture(row))
    kept = [row for row in range(20) if cache.get(row, 0) is not None]
    assert kept == [0, 1, 2] and cache.used <= MEGABYTE
    np.testing.assert_array_equal(cache.get(2, 0), picture(2))


def test_a_pool_keeps_the_newest() -> None:
    cache = ImageCache(50, MEGABYTE, rotating=True)
    for row in range(50):
        cache.put(row, 0, picture(row))
        np.testing.assert_array_equal(cache.get(row, 0), picture(row))
        for other in range(row + 1):
            found = cache.get(other, 0)
            if found is not None:
                np.testing.assert_array_equal(found, picture(other))
    assert [row for row in range(50) if cache.get(row, 0) is not None] == [48, 49]
    cache.put(0, 0, picture(0))  # gone, and welcome again
    np.testing.assert_array_equal(cache.get(0, 0), picture(0))


def test_it_tells_when_an_image_was_overwritten_in_use() -> None:
    cache = ImageCache(9, MEGABYTE, rotating=True)
    cache.put(0, 0, picture(0))
    assert cache.settle() and cache.get(0, 0) is not None and cache.settle()
    assert cache.get(0, 0) is not None
    for row in range(1, 9):
        cache.put(row, 0, picture(row))
    assert not cache.settle()
    assert cache.settle()


def test_an_image_larger_than_the_cache_stays_out() -> None:
    for rotating in (False, True):
        cache = ImageCache(2, MEGABYTE, rotating=rotating)
        cache.put(0, 0, np.zeros((700, 700, 3), np.uint8))
        assert cache.get(0, 0) is None and cache.used == 0


def test_a_budget_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="free"):
        ImageCache(2, 1 << 60, folder=tmp_path)
    with pytest.raises(ConfigError, match="holds nothing"):
        ImageCache(2, 10)


def fill(cache: ImageCache, first: int) -> None:
    for repeat in range(3):
        for row in range(first, 40 + repeat, 2):
            cache.put(row % 40, 0, picture(row % 40, 120))
            for other in (row % 40, (row + 1) % 40):
                found = cache.get(other, 0)
                same = found is not None and np.array_equal(found, picture(other, 120))
                assert same or not cache.settle() or found is None


def test_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    cache = ImageCache(40, MEGABYTE, rotating=True, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []  # the file has no name: nothing can be left behind
    workers = [context.Process(target=fill, args=(cache, first)) for first in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    there = [row for row in range(40) if cache.get(row, 0) is not None]
    assert len(there) > 10
    for row in there:
        np.testing.assert_array_equal(cache.get(row, 0), picture(row, 120))
