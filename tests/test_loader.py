"""Batches: the same whoever makes them, whole, and in an order that only the seed and the epoch decide."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loading import STILL, equal, seen, ten_images
from onelook.augment.yolox import YoloxAugment
from onelook.data.loader import Loader, Task
from onelook.data.order import Order, Sampling, chosen_rows, repeat_factors
from onelook.data.split import Dataset
from onelook.data.training_images import DrawImages
from onelook.errors import ConfigError, ImageError
from onelook.types import Sample


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ten_images(tmp_path_factory.mktemp("set"))


def test_batch_shows_the_images_its_indices_name(dataset: Dataset) -> None:
    with Loader(dataset, (64, 96), 4) as loader:
        assert len(loader) == 3
        for batch in loader.epoch(0, STILL, 0):
            assert batch.images.shape == (4, 3, 64, 96) and batch.images.dtype == torch.uint8
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert (batch.images[:, 0, 5, 5] // 20).tolist() == list(batch.indices)
            boxes = batch.targets.boxes[batch.targets.valid]
            assert batch.targets.valid.sum(1).tolist() == [{1: 2, 9: 0}.get(row, 1) for row in batch.indices]
            assert torch.isin(boxes[:, 0], torch.tensor([10.0, 11.0])).all()


@pytest.mark.parametrize("augment", [STILL, YoloxAugment()], ids=["plain", "mosaic"])
def test_images_do_not_depend_on_the_number_of_workers(dataset: Dataset, augment: object) -> None:
    with Loader(dataset, (64, 64), 4) as alone, Loader(dataset, (64, 64), 4, workers=2) as two:
        first = seen(alone, 0, augment)
        assert equal(first, seen(two, 0, augment))
        assert equal(seen(alone, 3, augment, first=1), seen(two, 3, augment, first=1))
        assert not equal(first, seen(alone, 1, augment))


def test_epoch_goes_on_where_it_stopped(dataset: Dataset) -> None:
    with Loader(dataset, (64, 64), 4) as loader:
        assert equal(seen(loader, 2, YoloxAugment())[2:], seen(loader, 2, YoloxAugment(), first=2))


@dataclass(frozen=True)
class Logged:
    """`STILL`, with a byte in a file for every sample that is made, in whatever process."""

    path: str

    def __call__(self, sample: Sample, draw: object, rng: np.random.Generator) -> Sample:
        with open(self.path, "ab") as file:
            file.write(b".")
        return STILL(sample, draw, rng)  # type: ignore[arg-type]

    def count(self) -> int:
        """How many samples were made."""
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_go_on_with_the_next_epoch_by_themselves(dataset: Dataset, tmp_path: Path) -> None:
    """While its first batches are not asked for; what the training then asks for decides."""
    made = Logged(str(tmp_path / "made"))
    requests = [(0, made, 0), (1, made, 0), (2, STILL, 0), (3, made, 1), (3, made, 0), (4, made, 0), (5, made, 0)]
    with Loader(dataset, (64, 64), 4, epochs=5) as alone, Loader(dataset, (64, 64), 4, epochs=5, workers=1) as busy:
        for epoch, augment, first in requests:
            expected = seen(alone, epoch, STILL, first)
            assert equal(expected, seen(busy, epoch, augment, first))
            if epoch < 2:
                wait_until(lambda used=12 * (epoch + 1): made.count() > used)  # three batches of four an epoch
            if epoch == 4:  # of five epochs, the fifth is the last
                count = made.count()
                time.sleep(0.2)
                assert made.count() == count


def test_an_epoch_that_is_left_and_asked_for_again_goes_on_without_a_new_start(
    dataset: Dataset, tmp_path: Path
) -> None:
    made = Logged(str(tmp_path / "made"))
    with Loader(dataset, (64, 64), 4, epochs=1) as alone, Loader(dataset, (64, 64), 4, epochs=1, workers=1) as busy:
        next(busy.epoch(0, made, 0))
        assert equal(seen(alone, 0, STILL, 1), seen(busy, 0, made, 1))
        assert made.count() == 12  # three batches of four, each sample once


def test_an_interrupted_change_of_epochs_leaves_no_batch_of_the_other(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two epochs, in a notebook that then goes on with the same loader."""
    make, made = Task.__init__, []

    def interrupted(task: Task, *values: Any) -> None:
        made.append(task)
        if len(made) == 2:
            raise KeyboardInterrupt
        make(task, *values)

    other = YoloxAugment()
    with Loader(dataset, (64, 64), 4, epochs=5) as alone, Loader(dataset, (64, 64), 4, epochs=5, workers=1) as busy:
        seen(busy, 0)
        monkeypatch.setattr(Task, "__init__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(busy.epoch(3, other, 0))
        monkeypatch.undo()
        for epoch, augment in ((1, STILL), (3, other)):
            assert equal(seen(alone, epoch, augment), seen(busy, epoch, augment))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_global_batch(dataset: Dataset, world: int) -> None:
    whole = [rows for rows, _ in seen(Loader(dataset, (64, 64), 4), 5)]
    parts = [[rows for rows, _ in seen(Loader(dataset, (64, 64), 4, rank=r, world=world), 5)] for r in range(world)]
    assert whole == [sum(rows, ()) for rows in zip(*parts)]
    passes = [rows for rows, _ in seen(Loader(dataset, (64, 64), 4, accumulate=2), 5)]
    assert whole == [passes[i] + passes[i + 1] for i in range(0, len(passes), 2)]


@settings(max_examples=30)
@given(count=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_every_image_is_shown_once_before_any_is_shown_again(count: int, batch: int, seed: int, epoch: int) -> None:
    order = Order(np.arange(count), None, batch, seed)
    rows = order.epoch(epoch).ravel()
    assert len(rows) == len(order) * batch
    counts = Counter(rows.tolist())
    assert len(counts) == count and max(counts.values()) <= -(-len(rows) // count)
    assert np.array_equal(rows, order.epoch(epoch).ravel())


def test_rare_classes_are_shown_more_often(dataset: Dataset) -> None:
    rows = chosen_rows(dataset, Sampling(), 0)
    factors = repeat_factors(dataset, rows, 0.4)
    assert factors[1] == pytest.approx(2.0)  # forks are on a tenth of the images: sqrt(0.4 / 0.1)
    assert np.delete(factors, 1).tolist() == [1.0] * 9
    order = Order(rows, factors, 1, 0)
    assert len(order) == 11
    assert Counter(order.epoch(0).ravel().tolist())[1] == 2


def test_subsets_by_fraction_class_and_background(dataset: Dataset) -> None:
    assert chosen_rows(dataset, Sampling(classes=("fork",), background=0), 0).tolist() == [1]
    assert chosen_rows(dataset, Sampling(classes=("fork",)), 0).tolist() == [1, 9]
    assert chosen_rows(dataset, Sampling(background=0), 0).tolist() == list(range(9))
    half = chosen_rows(dataset, Sampling(fraction=0.5), 0)
    assert len(half) == 5 and not np.array_equal(half, chosen_rows(dataset, Sampling(fraction=0.5), 1))
    with Loader(dataset, (64, 64), 1, sampling=Sampling(classes=("fork",), background=0)) as loader:
        (batch,) = loader.epoch(0, STILL, 0)
        assert batch.targets.labels.tolist() == [[1]]
    with pytest.raises(ConfigError, match="Did you mean 'fork'"):
        chosen_rows(dataset, Sampling(classes=("forks",)), 0)


def test_objects_beyond_the_limit_are_dropped_in_order(dataset: Dataset) -> None:
    sampling = Sampling(classes=("fork", "cup"), background=0)
    with Loader(dataset.view([1]), (64, 96), 1, sampling=sampling, max_labels=1) as loader:
        (batch,) = loader.epoch(0, STILL, 0)
        assert batch.targets.boxes.tolist() == [[[10.0, 10.0, 40.0, 50.0]]]


def test_damaged_image_names_itself(dataset: Dataset) -> None:
    """With the same words whoever reads it, and no traceback of a worker among them."""
    broken = dataset.view([0])
    path = broken.path(0)
    content = path.read_bytes()
    path.write_bytes(content[:60])
    said = []
    try:
        for workers in (0, 1, 2):
            with Loader(broken, (64, 64), 1, workers=workers) as loader, pytest.raises(ImageError) as caught:
                list(loader.epoch(0, STILL, 0))
            said.append((caught.value.message, caught.value.remedy))
    finally:
        path.write_bytes(content)
    message, remedy = said[0]
    assert "0.png" in message and "\n" not in message and remedy
    assert said == [(message, remedy)] * 3


def test_a_loader_goes_on_after_an_image_that_was_damaged(dataset: Dataset) -> None:
    path = dataset.path(3)
    content = path.read_bytes()
    with Loader(dataset, (64, 64), 1, workers=1) as loader:
        path.write_bytes(content[:60])
        try:
            with pytest.raises(ImageError):
                list(loader.epoch(0, STILL, 0))
        finally:
            path.write_bytes(content)
        with Loader(dataset, (64, 64), 1) as alone:
            assert equal(seen(loader, 0), seen(alone, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_no_image(dataset: Dataset, workers: int) -> None:
    pipeline = YoloxAugment()
    with Loader(dataset, (64, 64), 4) as plain, Loader(dataset, (64, 64), 4, workers=workers, cache=1 << 20) as cached:
        for epoch in (0, 1):
            assert equal(seen(plain, epoch, pipeline), seen(cached, epoch, pipeline))
        assert cached.cache is not None and cached.cache.used > 0


def test_reuse_draws_from_the_images_shown_before(dataset: Dataset) -> None:
    sampling = Sampling(reuse=4)
    asked: list[int] = []

    class Draws:
        def __call__(self, sample: object, draw: DrawImages, rng: np.random.Generator) -> object:
            assert draw.rows is not None and len(draw.rows) == 4
            asked.extend(int(row) for row in draw.rows)
            return STILL(sample, draw, rng)  # type: ignore[arg-type]

    with Loader(dataset, (64, 96), 5, sampling=sampling) as loader:
        order = loader.order.epoch(0).reshape(-1).tolist()
        seen(loader, 0, Draws())
        expected = [order[(place - back) % len(order)] for place in range(len(order)) for back in (4, 3, 2, 1)]
        assert asked == expected
        whole = seen(loader, 0, YoloxAugment())
        assert equal(whole[1:], seen(loader, 0, YoloxAugment(), first=1))
        assert loader.cache is not None and loader.cache.used > 0
