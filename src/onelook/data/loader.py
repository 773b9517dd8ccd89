"""Batches for a training: worker processes that share the memory-mapped index, and an order no worker decides.

Every sample is made from (seed, epoch, position in the epoch), so the pictures of an epoch do not depend on the number
of workers, and a resumed training sees what it would have seen. The workers get the augmentation with each batch:
closing the mosaic restarts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from onelook.augment.source import LazySample
from onelook.data.dataset import Dataset
from onelook.data.images import decode_image
from onelook.data.order import Order, Sampling, chosen_rows, class_labels, repeat_factors
from onelook.types import Sample, Targets

_AUGMENT = 0xA06  # keeps the augmentations' draws apart from the order's, which share the seed


@dataclass(frozen=True, eq=False)
class Batch:
    """images: (B, 3, H, W) uint8 RGB (channels last in memory).  targets: their objects.  indices: data set rows."""

    images: Tensor
    targets: Targets
    indices: tuple[int, ...]

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which an accelerator can fetch it while it works."""
        t = self.targets
        targets = Targets(t.boxes.pin_memory(), t.labels.pin_memory(), t.valid.pin_memory())
        return replace(self, images=self.images.pin_memory(), targets=targets)


@dataclass(frozen=True, eq=False)
class Task:
    """What a worker needs to make one batch besides the data set."""

    augment: Any
    epoch: int
    progress: float
    positions: np.ndarray
    rows: np.ndarray


class Pictures:
    """The images and objects of a data set as augmentations ask for them; lives in each worker.

    labels: the classes that are learnt, None for all.
    """

    def __init__(self, dataset: Dataset, rows: np.ndarray, labels: np.ndarray | None) -> None:
        self.dataset, self.rows = dataset, rows
        self.keep = None if labels is None else np.isin(np.arange(len(dataset.names)), labels)

    def sample(self, row: int) -> LazySample:
        """An image of the data set with what is learnt of it (see `Dataset.sample`); pixels are read when needed."""
        boxes, labels, polygons = self.dataset.learnt(row)
        if self.keep is not None:
            kept = self.keep[labels]
            boxes, labels = boxes[kept], labels[kept]
            if polygons is not None:
                polygons = tuple(outline for outline, keep in zip(polygons, kept.tolist()) if keep)
        height, width = self.dataset.sizes[row].tolist()
        return LazySample(self._reader(row), boxes, labels, polygons, (height, width))

    def _reader(self, row: int) -> Callable[[int], np.ndarray]:
        path = self.dataset.path(row)
        return lambda level: decode_image(path)


class DrawImages:
    """What an augmentation may draw on: further images of the set, at the training size."""

    def __init__(self, pictures: Pictures, size: tuple[int, int], progress: float) -> None:
        self.pictures, self.size, self.progress = pictures, size, progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        """Another image, uniformly with replacement."""
        return self.pictures.sample(int(self.pictures.rows[rng.integers(len(self.pictures.rows))]))


class _Maker:
    """Makes batches: the `dataset` of a DataLoader, whose keys are whole tasks."""

    def __init__(self, pictures: Pictures, size: tuple[int, int], seed: int, max_labels: int) -> None:
        self.pictures, self.size, self.seed, self.max_labels = pictures, size, seed, max_labels

    def __getitem__(self, task: Task) -> Batch:
        draw = DrawImages(self.pictures, self.size, task.progress)
        samples = []
        for position, row in zip(task.positions.tolist(), task.rows.tolist()):
            rng = np.random.default_rng((self.seed, _AUGMENT, task.epoch, position))
            samples.append(task.augment(self.pictures.sample(row), draw, rng))
        return collate(samples, tuple(task.rows.tolist()), self.max_labels)


def collate(samples: Sequence[Sample], indices: tuple[int, ...], max_labels: int) -> Batch:
    """Samples of one size as a batch; objects beyond `max_labels` are dropped in order, as published."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    counts = [min(len(sample.labels), max_labels) for sample in samples]
    most = max(counts)
    boxes, labels = np.zeros((len(samples), most, 4), np.float32), np.zeros((len(samples), most), np.int64)
    for row, (sample, count) in enumerate(zip(samples, counts)):
        boxes[row, :count], labels[row, :count] = sample.boxes[:count], sample.labels[:count]
    valid = np.arange(most) < np.array(counts)[:, None]
    targets = Targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(valid))
    return Batch(images.permute(0, 3, 1, 2), targets, indices)


def default_workers() -> int:
    """Worker processes that pay off here: one a core, but never more than 8, and one on the smallest machines.

    Where the network itself trains on the CPU, a worker's time is taken from it: the loop's caller may ask for fewer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


class Loader:
    """The batches of one process of a training (`train.loop.Batches`).

    batch: images of a global batch; rank r of `world` processes makes the r-th of its equal parts, so the union over
    the processes does not depend on how many there are.  workers: processes, 0 to work in this one.  pin: whether
    batches are made ready for an accelerator.  Close it, or use it as a context manager.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        batch: int,
        *,
        epochs: int = 1,
        seed: int = 0,
        sampling: Sampling | None = None,
        max_labels: int = 120,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        pin: bool = False,
    ) -> None:
        sampling = sampling or Sampling()
        rows = chosen_rows(dataset, sampling, seed)
        factors = repeat_factors(dataset, rows, sampling.repeat_factor) if sampling.repeat_factor else None
        if batch % (world * accumulate):
            raise ValueError(f"a batch of {batch} cannot be shared by {world} processes in {accumulate} passes")
        self.order = Order(rows, factors, batch, seed)
        self.epochs = epochs
        self._share = batch // (world * accumulate)
        self._rank, self._world, self._passes = rank, world, accumulate
        pictures = Pictures(dataset, rows, class_labels(dataset.names, sampling.classes))
        self._maker = _Maker(pictures, size, seed, max_labels)
        self._tasks = _Tasks()
        self._workers = workers
        self._loader: DataLoader[Batch] = DataLoader(
            self._maker,  # type: ignore[arg-type]
            sampler=self._tasks,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            pin_memory=pin,
            worker_init_fn=_quiet_worker,
            multiprocessing_context="spawn" if workers else None,
        )

    def __len__(self) -> int:
        """Passes of an epoch, for this process."""
        return len(self.order) * self._passes

    def epoch(self, epoch: int, augment: Any, first: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based) from number `first` on; made ahead by the workers."""
        order = self.order.epoch(epoch)
        positions = np.arange(order.size).reshape(len(self.order), self._passes, self._world, self._share)
        rows = order.reshape(positions.shape)
        progress = epoch / max(self.epochs, 1)
        tasks = []
        for number in range(first, len(self)):
            place = (*divmod(number, self._passes), self._rank)
            tasks.append(Task(augment, epoch, progress, positions[place], rows[place]))
        self._tasks.waiting = tasks
        yield from self._loader if self._workers else map(self._maker.__getitem__, tasks)

    def close(self) -> None:
        """Ends the worker processes."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Tasks:
    """The sampler of a DataLoader: the tasks of the epoch to come."""

    def __init__(self) -> None:
        self.waiting: list[Task] = []

    def __iter__(self) -> Iterator[Task]:
        return iter(self.waiting)

    def __len__(self) -> int:
        return len(self.waiting)


def _quiet_worker(worker: int) -> None:
    """Each worker is one thread: threads inside workers would fight for the cores the workers have filled."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
