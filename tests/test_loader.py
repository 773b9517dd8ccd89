"""Batches: the same whoever makes them, whole, and in an order that only the seed and the epoch decide."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onelook.augment.yolox import SingleImageAugment, YoloxAugment
from onelook.data import open_dataset
from onelook.data.dataset import Dataset
from onelook.data.loader import Loader, default_workers
from onelook.data.order import Order, Sampling, chosen_rows, repeat_factors
from onelook.data.training_images import DrawImages
from onelook.errors import ConfigError, ImageError
from onelook.types import Sample

STILL = SingleImageAugment(hsv=None, flip=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten 96x64 images whose red value tells their row; cups on the even ones, a fork on row 1 only, row 9 is empty."""
    root = tmp_path_factory.mktemp("set")
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    images, annotations = [], []
    for row in range(10):
        image = np.full((64, 96, 3), 10, np.uint8)
        image[..., 2] = 20 * row
        cv2.imwrite(str(root / "train" / f"{row}.png"), image)
        images.append({"id": row, "file_name": f"{row}.png", "height": 64, "width": 96})
        kinds = {1: [0, 1], 9: []}.get(row, [0])
        for kind in kinds:
            box = [10.0 + kind, 10.0, 30.0, 40.0]
            entry = {"id": len(annotations) + 1, "image_id": row, "category_id": kind, "bbox": box, "area": 1200.0}
            annotations.append({**entry, "iscrowd": 0})
    categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "fork"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(whole))
    return open_dataset(root, "train")


def seen(
    loader: Loader, epoch: int, augment: object = STILL, first: int = 0
) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    return [(batch.indices, batch.images.clone()) for batch in loader.epoch(epoch, augment, first)]


def equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other))


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
    iterators = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    put, asked = iterators._try_put_index, []

    def interrupted(iterator: object) -> None:
        asked.append(iterator)
        if len(asked) == 2:
            raise KeyboardInterrupt
        put(iterator)

    other = YoloxAugment()
    with Loader(dataset, (64, 64), 4, epochs=5) as alone, Loader(dataset, (64, 64), 4, epochs=5, workers=1) as busy:
        seen(busy, 0)
        monkeypatch.setattr(iterators, "_try_put_index", interrupted)
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


def test_leaving_in_the_middle_of_an_epoch_ends_the_workers(dataset: Dataset) -> None:
    """What is still in their queues is thrown away; a worker that aborts would raise here."""
    loader = Loader(dataset, (320, 320), 2, workers=2)
    for epoch in range(2):
        for number, _ in enumerate(loader.epoch(epoch, YoloxAugment(), 0)):
            if number == 1:
                break
    workers = multiprocessing.active_children()
    loader.close()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_what_a_terminal_sends_to_all_processes_does_not_end_the_workers(dataset: Dataset) -> None:
    """Ctrl-C reaches them too: a training that stops between two steps still needs the batch that it waits for."""
    with Loader(dataset, (64, 64), 1, workers=1) as loader:
        batches = loader.epoch(0, STILL, 0)
        next(batches)
        (worker,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        assert len(list(batches)) == 9
    assert worker.exitcode == 0


STARTING = """
import os, signal, sys, threading, time
from onelook.augment.yolox import SingleImageAugment
from onelook.data import open_dataset
from onelook.data.loader import Loader

got = []

def pester(ended):
    while not ended.wait(0.02):
        os.killpg(os.getpgrp(), signal.SIGINT)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: got.append(time.monotonic()))
    ended = threading.Event()
    with Loader(open_dataset(sys.argv[1], "train"), (64, 64), 1, workers=2, cache=1 << 20) as loader:
        threading.Thread(target=pester, args=(ended,)).start()
        batches = loader.epoch(0, SingleImageAugment(hsv=None, flip=0.0), 0)
        try:
            next(batches)
        finally:
            ended.set()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        print(len(got) > 5, signal.SIGINT in blocked, signal.SIGTERM in blocked, len(list(batches)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_a_ctrl_c_at_any_moment_of_their_start_does_not_end_the_workers(dataset: Dataset, tmp_path: Path) -> None:
    """A terminal sends it to all processes; the training gets every one that comes, and still has its batches."""
    (tmp_path / "starting.py").write_text(STARTING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "starting.py"), str(dataset.described_by)]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, start_new_session=True, timeout=100, check=False
    )
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    assert found.stdout.split() == ["True", "False", "False", "9"]


KILLED = """
import multiprocessing, sys, time
from onelook.augment.yolox import SingleImageAugment
from onelook.data import open_dataset
from onelook.data.loader import Loader

if __name__ == "__main__":
    loader = Loader(open_dataset(sys.argv[1], "train"), (64, 64), 8, epochs=50, max_labels=2000, workers=1)
    next(loader.epoch(0, SingleImageAugment(hsv=None, flip=0.0), 0))
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_workers_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    """Even while they wait to hand over a batch that is larger than a pipe holds."""
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    cv2.imwrite(str(tmp_path / "train" / "0.png"), np.zeros((64, 64, 3), np.uint8))
    images = [{"id": 0, "file_name": "0.png", "height": 64, "width": 64}]
    box = {"image_id": 0, "category_id": 0, "bbox": [5, 5, 40, 40], "area": 1600, "iscrowd": 0}
    whole = {"images": images, "annotations": [{"id": number, **box} for number in range(1, 1501)]}
    whole["categories"] = [{"id": 0, "name": "cup"}]
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(whole))
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        worker = int(training.stdout.readline())
        time.sleep(1)  # its pipe fills
        training.kill()
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            os.kill(worker, 0)  # raises when it is gone
            if _is_zombie(worker):
                return
            time.sleep(0.1)
    except ProcessLookupError:
        return
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lives on")


def _is_zombie(process: int) -> bool:
    """Whether it has ended and was not waited for: in a container no process may do that."""
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, "1", 1), (2, "1", 1), (16, "1", 15), (64, "1", 16), (64, "8", 7), (4, "8", 1), (4, "0", 3), (4, "x", 3)],
)
def test_workers_share_the_cores(cores: int, processes: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert default_workers() == workers
