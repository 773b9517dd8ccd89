"""Shared decoded images: what comes out went in, whoever asks, and room is never exceeded."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onelook.data import image_cache
from onelook.data.image_cache import ImageCache
from onelook.data.shared_file import SharedFile
from onelook.errors import ConfigError, UserError

MEGABYTE = 1 << 20


def image(seed: int, side: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + seed % 7, 3), dtype=np.uint8)


def test_images_come_back_as_they_went_in() -> None:
    cache = ImageCache(10, 4 * MEGABYTE)
    cache.put(3, 0, image(3))
    cache.put(3, 1, image(4, 50))
    found = cache.get(3, 0)
    assert found is not None and not found.flags.writeable
    np.testing.assert_array_equal(found, image(3))
    np.testing.assert_array_equal(cache.get(3, 1), image(4, 50))
    assert cache.get(3, 2) is None and cache.get(4, 0) is None
    assert cache.used == image(3).size + image(4, 50).size
    cache.close()
    np.testing.assert_array_equal(found, image(3))


def test_a_full_cache_takes_nothing_more() -> None:
    cache = ImageCache(20, MEGABYTE)
    for row in range(20):
        cache.put(row, 0, image(row))
    kept = [row for row in range(20) if cache.get(row, 0) is not None]
    assert kept == [0, 1, 2] and cache.used <= MEGABYTE
    np.testing.assert_array_equal(cache.get(2, 0), image(2))


def test_a_pool_keeps_the_newest() -> None:
    cache = ImageCache(50, MEGABYTE, rotating=True)
    for row in range(50):
        cache.put(row, 0, image(row))
        np.testing.assert_array_equal(cache.get(row, 0), image(row))
        for other in range(row + 1):
            found = cache.get(other, 0)
            if found is not None:
                np.testing.assert_array_equal(found, image(other))
    assert [row for row in range(50) if cache.get(row, 0) is not None] == [48, 49]
    cache.put(0, 0, image(0))  # gone, and welcome again
    np.testing.assert_array_equal(cache.get(0, 0), image(0))


def test_it_tells_when_an_image_was_overwritten_in_use() -> None:
    cache = ImageCache(9, MEGABYTE, rotating=True)
    cache.put(0, 0, image(0))
    assert cache.all_unchanged() and cache.get(0, 0) is not None and cache.all_unchanged()
    assert cache.get(0, 0) is not None
    for row in range(1, 9):
        cache.put(row, 0, image(row))
    assert not cache.all_unchanged()
    assert cache.all_unchanged()


def test_an_image_larger_than_the_cache_stays_out() -> None:
    for rotating in (False, True):
        cache = ImageCache(2, MEGABYTE, rotating=rotating)
        cache.put(0, 0, np.zeros((700, 700, 3), np.uint8))
        assert cache.get(0, 0) is None and cache.used == 0


def test_a_budget_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="free"):
        ImageCache(2, 1 << 60, folder=tmp_path)
    with pytest.raises(ConfigError, match="holds no image"):
        ImageCache(2, 10)


class Device:
    """A file system that has so much room, whatever it says that it has."""

    def __init__(self, room: int) -> None:
        self.room = room

    def allocate(self, file: int, start: int, size: int) -> None:
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= size


@pytest.mark.parametrize("rotating", [False, True])
def test_room_that_is_not_there_is_noticed_before_it_is_written_to(
    rotating: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping of a file without room ends the process that writes to it."""
    device = Device(7 * MEGABYTE)
    monkeypatch.setattr(os, "posix_fallocate", device.allocate, raising=False)
    first = ImageCache(2, 6 * MEGABYTE, rotating=rotating, folder=tmp_path)
    with pytest.raises(UserError, match=r"needs 6 MiB in .* \(no space left on device\)") as caught:
        ImageCache(2, 6 * MEGABYTE, rotating=rotating, folder=tmp_path)
    assert caught.value.remedy
    first.put(0, 0, image(0))
    np.testing.assert_array_equal(first.get(0, 0), image(0))


def test_a_cache_whose_room_others_take_stays_as_full_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(3 * MEGABYTE)
    monkeypatch.setattr(os, "posix_fallocate", device.allocate, raising=False)
    monkeypatch.setattr(image_cache, "_STEP", MEGABYTE)
    cache = ImageCache(20, 5 * MEGABYTE, folder=tmp_path)
    assert device.room < 2 * MEGABYTE  # the table, and the first step
    for row in range(20):
        cache.put(row, 0, image(row))
    kept = [row for row in range(20) if cache.get(row, 0) is not None]
    assert kept == list(range(7)) and 1.5 * MEGABYTE < cache.used <= 2 * MEGABYTE
    for row in kept:
        np.testing.assert_array_equal(cache.get(row, 0), image(row))
    device.room = 100 * MEGABYTE
    cache.put(19, 0, image(19))  # it is not asked for again
    assert cache.get(19, 0) is None and device.room == 100 * MEGABYTE


def test_where_nothing_can_be_reserved_it_works_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def works() -> bool:
        cache = ImageCache(2, 2 * MEGABYTE, folder=tmp_path)
        cache.put(0, 0, image(0))
        return np.array_equal(cache.get(0, 0), image(0))

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    assert works()  # a network folder
    monkeypatch.delattr(os, "posix_fallocate")
    assert works()  # macOS


class Meeting:
    """The `Gather` of threads in place of processes."""

    def __init__(self, count: int) -> None:
        self.barrier, self.given = threading.Barrier(count, timeout=20), [None] * count

    def of(self, rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            self.given[rank] = value
            self.barrier.wait()
            found = list(self.given)
            self.barrier.wait()
            return found

        return gather


def met(folders: list[Path], budgets: list[int]) -> list[Any]:
    """The caches, or the errors, of processes that make theirs together."""
    meeting = Meeting(len(folders))

    def make(rank: int) -> Any:
        try:
            return ImageCache(9, budgets[rank], folder=folders[rank], gather=meeting.of(rank))
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(folders)) as threads:
        return list(threads.map(make, range(len(folders))))


def test_there_is_one_cache_a_computer(tmp_path: Path) -> None:
    """Here, computers are folders; they may number their processes in turn."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    # The processes measured what is free at different times.
    caches = met([*folders, *folders], [2 * MEGABYTE, 3 * MEGABYTE, 4 * MEGABYTE, 5 * MEGABYTE])
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
    assert [cache.budget for cache in caches] == [2 * MEGABYTE, 3 * MEGABYTE] * 2
    caches[0].put(1, 0, image(1))
    caches[3].put(2, 0, image(2))
    for place, cache in enumerate(caches):
        row, other = (1, 2) if place % 2 == 0 else (2, 1)
        np.testing.assert_array_equal(cache.get(row, 0), image(row))
        assert cache.get(other, 0) is None and cache.used == image(row).size
    caches[2].put(3, 0, image(3))
    np.testing.assert_array_equal(caches[0].get(3, 0), image(3))


def test_what_one_process_cannot_do_is_said_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    found = met([tmp_path / "here"] * 3, [1 << 60, MEGABYTE, MEGABYTE])
    assert all(isinstance(error, UserError) and "MiB are free" in error.message for error in found)

    def cannot(*_: str) -> None:
        raise UserError("It cannot be opened.")

    monkeypatch.setattr(SharedFile, "_open", cannot)
    found = met([tmp_path / "here"] * 2, [MEGABYTE] * 2)
    assert [str(error) for error in found] == ["It cannot be opened."] * 2
    assert list((tmp_path / "here").iterdir()) == []


def end_inside(file: SharedFile) -> None:
    with file.locked():
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    file = SharedFile(tmp_path, None)
    process = multiprocessing.get_context("spawn").Process(target=end_inside, args=(file,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with file.locked():
        pass
    file.close()


def fill(cache: ImageCache, first: int) -> None:
    for repeat in range(3):
        for row in range(first, 40 + repeat, 2):
            cache.put(row % 40, 0, image(row % 40, 120))
            for other in (row % 40, (row + 1) % 40):
                found = cache.get(other, 0)
                same = found is not None and np.array_equal(found, image(other, 120))
                assert same or not cache.all_unchanged() or found is None


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
        np.testing.assert_array_equal(cache.get(row, 0), image(row, 120))
