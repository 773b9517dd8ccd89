"""The data loader of a training: worker processes that share the memory-mapped index and make augmented batches.

Every sample is made from (seed, epoch, position in the epoch), so the images of an epoch do not depend on the number of
workers, and a resumed training gets the same ones. The augmentation is sent to the workers with each batch: closing the
mosaic restarts no process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection, resource_tracker, util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from onelook.augment.image_plan import Planner
from onelook.data.batch import Batch, PlannedBatch, collate, collate_planned
from onelook.data.image_cache import ImageCache
from onelook.data.main_script import main_script_hidden
from onelook.data.memory import keep_memory
from onelook.data.order import Sampling, chooses_all, chosen_rows, class_labels
from onelook.data.shard_order import make_order
from onelook.data.shared_file import Gather, gather_alone
from onelook.data.split import Dataset
from onelook.data.training_images import DrawImages, TrainingImages, uses_polygons
from onelook.devices import num_cores_per_process
from onelook.errors import UserError

_AUGMENT = 0xA06  # keeps the augmentations' draws apart from the order's, which share the seed
# What a terminal or a scheduler sends to all processes of a training.
_STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True, eq=False)
class Task:
    """Which images make one batch, as it is sent to a worker process.

    recent: the rows of this process's batches before, for `Sampling.reuse`: row n of the batch takes further images
    from `recent[n : n + reuse]`.
    """

    augment: Any
    epoch: int
    progress: float
    positions: np.ndarray
    rows: np.ndarray
    recent: np.ndarray | None = None


class _BatchDataset:
    """The `dataset` of a DataLoader: makes the batch of a `Task`, which takes the place of a row number."""

    def __init__(
        self, images: TrainingImages, size: tuple[int, int], seed: int, max_labels: int | None, plans: bool
    ) -> None:
        self.images, self.size, self.seed, self.max_labels, self.plans = images, size, seed, max_labels, plans

    def __getitem__(self, task: Task) -> Batch | PlannedBatch | UserError:
        # PyTorch turns an exception of a worker into a text with its traceback, so a message for users is returned.
        try:
            return self.make(task)
        except UserError as error:
            return error

    def make(self, task: Task) -> Batch | PlannedBatch:
        """The batch of a task."""
        samples: list[Any] = [self.images.make(partial(self.sample, task, number)) for number in range(len(task.rows))]
        return (collate_planned if self.plans else collate)(samples, tuple(task.rows.tolist()), self.max_labels)

    def sample(self, task: Task, number: int, images: TrainingImages) -> Any:
        """The task's sample of this number; where plans are made, a `PlannedSample`."""
        rows, outlines = None, uses_polygons(task.augment)
        if task.recent is not None:
            rows = task.recent[number : number + len(task.recent) - len(task.rows) + 1]
        draw = DrawImages(images, self.size, task.progress, rows, outlines)
        rng = np.random.default_rng((self.seed, _AUGMENT, task.epoch, int(task.positions[number])))
        if not self.plans:
            return task.augment(images.sample(int(task.rows[number]), outlines), draw, rng)
        planned = task.augment.plan(images.sample(int(task.rows[number]), outlines), draw, rng)
        overwritten = images.cache is not None and images.cache.rotating
        return planned.copied() if overwritten else planned


def default_workers() -> int:
    """The default number of worker processes: the cores less one, at least 1 and at most 16.

    Where the network itself trains on the CPU, workers slow it down: the caller may choose fewer.
    """
    return max(1, min(16, num_cores_per_process() - 1))


class Loader:
    """The batches of one process of a training (see `onelook.training.loop.Batches`).

    batch: images of a global batch; rank r of `world` processes makes the r-th of its equal parts, so the union over
        the processes does not depend on how many there are.
    epochs: how many there will be: after the last one, no batch is prepared.
    workers: processes, 0 to work in this one.
    pin: whether batches are in page-locked memory, from which an accelerator copies faster.
    cache: bytes of decoded images that the workers share, 0 for none; it changes no image.
    cache_folder: where they are stored, None is memory.
    gather: collects a value from every process of a training, so that the processes of a computer share one cache; all
        of them must then make their loader. Without, each process has its own cache.
    plans: whether images are described and not made: `planned_epoch` then takes the place of `epoch`.

    Close it, or use it as a context manager.
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
        max_labels: int | None = 120,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        pin: bool = False,
        cache: int = 0,
        cache_folder: Path | None = None,
        gather: Gather = gather_alone,
        imports_script: bool = False,
        plans: bool = False,
    ) -> None:
        sampling = sampling or Sampling()
        # Each worker gets a copy of the rows: a range is small, however many there are.
        rows = range(len(dataset)) if chooses_all(sampling) else chosen_rows(dataset, sampling, seed)
        if batch % (world * accumulate):
            raise ValueError(f"a batch of {batch} cannot be shared by {world} processes in {accumulate} passes")
        self.order = make_order(dataset, rows, sampling, batch, seed)
        self.epochs, self.plans = epochs, plans
        self._share = batch // (world * accumulate)
        self._rank, self._world, self._passes = rank, world, accumulate
        self._reuse, self._partial = sampling.reuse, sampling.last_batch == "partial"
        self.cache = _cache(dataset, rows, sampling.reuse, cache, folder=cache_folder, gather=gather)
        labels = class_labels(dataset.names, sampling.classes)
        dataset = replace(dataset, beyond_image=sampling.beyond_image)
        images = TrainingImages(dataset, rows, labels, self.cache, whole=sampling.reuse > 0)
        self._batch_dataset = _BatchDataset(images, size, seed, max_labels, plans)
        self._tasks = _Tasks()
        self.workers, self._pin, self._imports_script = workers, pin, imports_script
        # The stream of the workers' batches, and the (epoch, augment, number) of its next one.
        self._stream: Iterator[Any] | None = None
        self._next: tuple[int, Any, int] | None = None
        self._loader: DataLoader[Any] = DataLoader(
            self._batch_dataset,  # type: ignore[arg-type]
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
        """How many batches of an epoch this process gets (micro-batches, where gradients are accumulated)."""
        return len(self.order) * self._passes

    def epoch(self, epoch: int, augment: Any, first: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based) from number `first` on, prepared in advance by the workers.

        At the end of an epoch the workers go on with the next one, so that its first batches are ready in time.
        """
        if self.plans:
            raise RuntimeError("this loader describes its images and does not make them")
        return self._epoch(epoch, augment, first)

    def planned_epoch(self, epoch: int, augment: Planner, first: int) -> Iterator[PlannedBatch]:
        """The same of a loader that describes its images."""
        if not self.plans:
            raise RuntimeError("this loader makes its images and does not describe them")
        return self._epoch(epoch, augment, first)

    def _epoch(self, epoch: int, augment: Any, first: int) -> Iterator[Any]:
        if not self.workers:
            for task in self._tasks_of(epoch, augment, first):
                batch = self._batch_dataset.make(task)
                yield batch.pin_memory() if self._pin else batch
            return
        for number in range(first, len(self)):
            goes_on = self._stream is not None and self._leads_to(epoch, augment, number)
            self._next = None  # a stream that fails is not used again
            if self._stream is None or not goes_on:
                self._tasks.waiting = self._tasks_from(epoch, augment, number)
                self._stream = self._started()
            made = next(self._stream)
            if isinstance(made, UserError):
                raise made
            last = number + 1 == len(self)
            self._next = (epoch + 1, augment, 0) if last else (epoch, augment, number + 1)
            yield made

    def _started(self) -> Iterator[Any]:
        """Starts the stream of batches for the waiting tasks."""
        begins = getattr(self._loader, "_iterator", None) is None
        try:
            if not begins:
                return iter(self._loader)
            with _stop_signals_blocked(), main_script_hidden(not self._imports_script):
                return iter(self._loader)
        except BaseException:
            self._end_workers()  # they may be between two streams: the next one begins with new workers
            raise

    def _leads_to(self, epoch: int, augment: Any, number: int) -> bool:
        """Whether this is the next batch of the workers' stream."""
        return (
            self._next is not None
            and (self._next[1] is augment or self._next[1] == augment)
            and self._next[::2] == (epoch, number)
            and (number > 0 or epoch < self.epochs)
        )

    def _tasks_from(self, epoch: int, augment: Any, first: int) -> Iterator[Task]:
        """The tasks of `epoch` from number `first` on, then those of all later epochs, with the same `augment`."""
        yield from self._tasks_of(epoch, augment, first)
        for later in range(epoch + 1, self.epochs):
            yield from self._tasks_of(later, augment, 0)

    def _tasks_of(self, epoch: int, augment: Any, first: int) -> Iterator[Task]:
        progress = min(1.0, epoch / max(self.epochs, 1))  # a training with a budget of time may have more epochs
        for number in range(first, len(self)):
            start = number * self._share
            chosen = self._positions(np.arange(start, start + self._share))
            recent = None
            if self._reuse:
                before = np.arange(start - self._reuse, start + self._share - 1) % (len(self) * self._share)
                recent = self.order.rows_at(epoch, self._positions(before))
            if self._partial and number >= len(self) - self._passes:
                chosen = self._last_positions(number % self._passes)
                recent = None if recent is None else recent[: len(recent) - self._share + len(chosen)]
            yield Task(augment, epoch, progress, chosen, self.order.rows_at(epoch, chosen), recent)

    def _positions(self, own: np.ndarray) -> np.ndarray:
        """The positions in the epoch of this process's images, which are counted one micro-batch after another."""
        number, within = np.divmod(own, self._share)
        return (number * self._world + self._rank) * self._share + within

    def _last_positions(self, number: int) -> np.ndarray:
        """The positions of micro-batch `number` in a last batch that is not filled up: one at least."""
        parts = self._passes * self._world
        start = (len(self.order) - 1) * self.order.batch
        whole = np.arange(start, start + max(self.order.size_of_last, parts))
        return whole[number * self._world + self._rank :: parts]

    def close(self) -> None:
        """Ends the worker processes."""
        self._end_workers()
        if self.cache is not None:
            self.cache.close()

    def _end_workers(self) -> None:
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            for worker in iterator._workers:
                if worker.is_alive():
                    worker.kill()  # it did not end by itself, and ignores the signals that PyTorch sent it
            self._loader._iterator = None
        self._stream = self._next = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _cache(
    dataset: Dataset, rows: np.ndarray | range, reuse: int, budget: int, *, folder: Path | None, gather: Gather
) -> ImageCache | None:
    """The image cache that the workers share: all that fits the budget, or a pool large enough for reuse.

    Each process has a pool of its own, because it reuses the images of its own batches.
    """
    if not budget and not reuse:
        return None
    sizes = 3 * (dataset.sizes if isinstance(rows, range) else dataset.sizes[rows]).astype(np.int64).prod(1)
    if reuse:
        # Twice the images that are reused: workers run ahead, and the oldest quarter is no longer read.
        pool = max(int(2.0 * min(reuse, len(rows)) * np.percentile(sizes, 90)), 32 << 20)
        budget, gather = (budget, gather) if budget else (pool, gather_alone)
    rotating = reuse > 0 and bool(sizes.sum() > budget)
    return ImageCache(len(dataset), budget, rotating=rotating, folder=folder, gather=gather)


class _Tasks:
    """The sampler of the DataLoader: an iterator of tasks that is replaced when an epoch starts."""

    def __init__(self) -> None:
        self.waiting: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.waiting


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Blocks `_STOPS` while the `with` block starts processes, which inherit the blocked signals.

    A new worker imports for seconds before `_quiet_worker` runs, and Ctrl-C would end it in between. A signal to this
    process is delivered at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # multiprocessing starts this beside the first worker, and unblocks these signals then (Python 3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _quiet_worker(worker: int) -> None:
    """Prepares a worker process: one thread, and no reaction to signals that stop the training.

    The workers already use all cores, so threads inside them would only compete. A terminal sends Ctrl-C, and a
    scheduler its warning, to all processes at once. The training stops between two steps, for which it still needs
    batches: only the loader ends a worker.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)  # see `_stop_signals_blocked`
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    # A worker that ends while its queue still holds batches would end Python under the thread that sends them. This
    # thread, interrupted inside PyTorch's code, aborts the process. This ends it after all other finalisers have run.
    util.Finalize(None, os._exit, args=(0,), exitpriority=-1000)


def _end_with_parent() -> None:
    """Ends this worker when the process of the training has ended, however it ended.

    PyTorch's worker checks this too, but then still sends its finished batches, and blocks for ever without a reader.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
