"""The order of images of a data set in shards, and what the loader makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loading import STILL, equal, seen, ten_images
from onelook.augment.yolox import YoloxAugment
from onelook.data import open_dataset
from onelook.data.braces import expand_braces
from onelook.data.convert import convert
from onelook.data.loader import Loader
from onelook.data.order import Sampling
from onelook.data.shard_order import ShardOrder
from onelook.data.split import Dataset
from onelook.errors import ConfigError
from onelook.reporter import SilentReporter


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """Ten images in a folder, and the same in two shards and more."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        folder = ten_images(root)
        for row in range(10):  # so that a shard of the least size holds a few of them
            with folder.path(row).open("ab") as file:
                file.write(bytes(2000))
        convert(root, to="shards", out=root / "out", shard_size=10_000, reporter=SilentReporter())
        return folder, open_dataset(root / "out", "train", reporter=SilentReporter())


def test_shards_make_the_batches_of_the_folder(both: tuple[Dataset, Dataset]) -> None:
    folder, shards = both
    assert len(shards.shards) > 2
    for augment in (STILL, YoloxAugment()):
        with Loader(folder, (64, 64), 4) as one, Loader(shards, (64, 64), 4) as other:
            for epoch in (0, 1):
                assert equal(seen(one, epoch, augment), seen(other, epoch, augment))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(shard_window=2), Sampling(shard_window=1, reuse=4)])
def test_any_number_of_processes_and_workers_shows_the_same(both: tuple[Dataset, Dataset], sampling: Sampling) -> None:
    shards, augment = both[1], YoloxAugment()
    with Loader(shards, (64, 64), 4, sampling=sampling) as alone:
        whole = seen(alone, 0, augment)
        assert equal(whole[1:], seen(alone, 0, augment, first=1))  # resumed inside the epoch
    if sampling.shard_window == 2:  # starting processes takes seconds
        with Loader(shards, (64, 64), 4, sampling=sampling, workers=2) as loader:
            assert equal(whole, seen(loader, 0, augment))
    if sampling.reuse:
        return  # each process reuses images of its own
    parts = []
    for rank in range(2):
        with Loader(shards, (64, 64), 4, sampling=sampling, rank=rank, world=2) as loader:
            parts.append(seen(loader, 0, augment))
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch[0] == first[0] + second[0] and torch.equal(batch[1], torch.cat([first[1], second[1]]))


def test_a_window_needs_shards_and_no_repeats(both: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(ConfigError, match="not in shards, so sampling"):
        Loader(both[0], (64, 64), 4, sampling=Sampling(shard_window=3))
    with pytest.raises(ValueError, match="cannot be combined"):
        Sampling(shard_window=3, repeat_factor=0.1)


@pytest.mark.parametrize("sampling", [Sampling(fraction=0.5, shard_window=2), Sampling(background=0, shard_window=2)])
def test_a_window_shows_what_sampling_has_chosen(both: tuple[Dataset, Dataset], sampling: Sampling) -> None:
    with Loader(both[1], (64, 64), 5, sampling=sampling) as loader:
        rows = sorted(row for indices, _ in seen(loader, 0) for row in indices)
    expected = 5 if sampling.fraction < 1 else 9  # one of the ten shows nothing
    assert len(set(rows)) == expected


def test_a_view_keeps_its_rows(both: tuple[Dataset, Dataset]) -> None:
    view = both[1].view([9, 0, 4])
    with Loader(view, (64, 64), 3, sampling=Sampling(shard_window=1)) as loader:
        ((indices, _),) = seen(loader, 0)
    assert sorted(indices) == [0, 1, 2] and view.file_name(0) == "9.png"


orders = st.builds(
    lambda counts, batch, seed, window, endless: ShardOrder(
        np.concatenate(([0], np.cumsum(counts))), None, batch, seed, window, endless
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    st.integers(1, 12),
    st.integers(0, 5),
    st.integers(1, 9),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(orders, st.integers(0, 3), st.data())
def test_every_epoch_shows_every_image_and_any_place_is_found_alone(
    order: ShardOrder, epoch: int, data: st.DataObject
) -> None:
    needed = len(order) * order.batch
    whole = order.rows_at(epoch, np.arange(needed))
    images = order.num_images
    if not order.endless:
        assert sorted(whole[:images].tolist()) == list(range(images))
    else:
        stream = np.concatenate([order.rows_at(one, np.arange(needed)) for one in range(epoch + 1)])
        counts = np.bincount(stream, minlength=images)
        assert np.max(counts) - np.min(counts) <= 1
    place = data.draw(st.integers(0, needed - 1))
    fresh = ShardOrder(order.bounds, None, order.batch, order.seed, order.window, order.endless)
    assert fresh.rows_at(epoch, np.array([place])).tolist() == [whole[place]]


@settings(max_examples=30, deadline=None)
@given(orders)
def test_an_image_stays_near_its_neighbours(order: ShardOrder) -> None:
    """Of a window, only its shards are read."""
    shards = np.searchsorted(order.bounds, order.rows_at(0, np.arange(order.num_images)), side="right") - 1
    seen_last = {shard: place for place, shard in enumerate(shards.tolist())}
    for shard, last in seen_last.items():
        between = set(shards[shards.tolist().index(shard) : last + 1].tolist())
        assert len(between) <= order.window


def test_a_billion_images_take_no_memory() -> None:
    order = ShardOrder(np.arange(0, 1_000_000_001, 5000), None, 64, 0, 4)
    positions = np.arange(500_000_000, 500_000_064)
    first = order.rows_at(7, positions)
    assert len(set(first.tolist())) == 64 and int(np.max(first)) < 1_000_000_000
    assert sum(rows.nbytes for rows in order._kept.values()) <= 3 * 4 * 5000 * 8
    assert order.rows_at(7, positions).tolist() == first.tolist()


def test_an_epoch_differs_from_the_next_and_from_another_seed() -> None:
    bounds = np.arange(0, 101, 10)
    orders = [
        ShardOrder(bounds, None, 10, seed, 3).rows_at(epoch, np.arange(100)).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1] and orders[0] != orders[2]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{train-{0..1},val}.tar", ["train-0.tar", "train-1.tar", "val.tar"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{one}", ["{one}"]),
    ],
)
def test_braces_are_filled_in_as_a_shell_does(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected
