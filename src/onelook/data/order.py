"""The images of each epoch and their order: a pure function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from onelook.data.boxes import BeyondImage
from onelook.data.split import Dataset
from onelook.errors import ConfigError, did_you_mean

ORDER_DRAWS = 0x0DE2  # keeps these draws apart from those of the augmentations, which share the seed


@dataclass(frozen=True)
class Sampling:
    """Which images are trained on, and how often.

    fraction: of the images, drawn once with the recipe's seed.  classes: only images that show one of these (and only
    these objects), all when empty.  background: the share of the images without objects that is kept (1 keeps all).
    repeat_factor: images with rare classes are repeated (LVIS, Gupta et al. 2019): a class on a share f of the images
    max(1, sqrt(repeat_factor / f)) times, an image as often as its rarest class; 0 is off.
    reuse: further images of a mosaic are taken from the last `reuse` images of the epoch's order (of this process)
    instead of the whole set, so that a sample costs one decoding instead of four or five. Every image is still used as
    often on average, but consecutive batches share images; 0 is off, some hundred are a good pool.
    beyond_image: what becomes of a box that reaches beyond its image: "cut" keeps the part inside, "slide" is the
    clean-up that YOLOX published for COCO (see `onelook.data.boxes.clean_boxes`).
    last_batch: "full" fills the last batch of an epoch with images of a second shuffle; "partial" leaves it smaller
    (DAMO-YOLO), with one image at least for each process and micro-batch; "stream" fills it as well, and the next epoch
    goes on with the rest of that shuffle (YOLOX), so that all images are shown equally often.
    shard_window: of a data set in shards, how many shards are shuffled together; the order of the shards is new in each
    epoch. Reads stay near each other, and memory is bounded. 0 shuffles the whole set (see `ShardOrder`).
    """

    fraction: float = 1.0
    classes: tuple[str, ...] = ()
    background: float = 1.0
    repeat_factor: float = 0.0
    reuse: int = 0
    beyond_image: BeyondImage = "cut"
    last_batch: Literal["full", "partial", "stream"] = "full"
    shard_window: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction lies above 0 and at most at 1, not {self.fraction}")
        if self.last_batch not in ("full", "partial", "stream"):
            raise ValueError(f"last_batch is full, partial or stream, not {self.last_batch}")
        if self.last_batch == "stream" and self.repeat_factor:
            raise ValueError("last_batch=stream and repeat_factor cannot be combined: each epoch repeats other images")
        if self.shard_window < 0:
            raise ValueError(f"shard_window is 0 or a number of shards, not {self.shard_window}")
        if self.shard_window and self.repeat_factor:
            raise ValueError(
                "shard_window and repeat_factor cannot be combined: repeats need a shuffle of the whole set"
            )
        if not 0 <= self.background <= 1:
            raise ValueError(f"background lies between 0 and 1, not {self.background}")
        if not 0 <= self.repeat_factor <= 1:
            raise ValueError(f"repeat_factor lies between 0 and 1, not {self.repeat_factor}")
        if self.reuse < 0 or 0 < self.reuse < 4:
            raise ValueError(f"reuse is 0 or at least 4 images, not {self.reuse}")


def chooses_all(sampling: Sampling) -> bool:
    """Whether all images are trained on, whatever the data set."""
    return sampling.fraction == 1 and sampling.background == 1 and not sampling.classes


def chosen_rows(dataset: Dataset, sampling: Sampling, seed: int) -> np.ndarray:
    """(I,) int64 rows of the data set that are trained on, ascending. Raises ConfigError when none is left."""
    if chooses_all(sampling) and len(dataset):
        return np.arange(len(dataset))
    images, labels = classes_of_objects(dataset)
    chosen = class_labels(dataset.names, sampling.classes)
    with_objects = np.zeros(len(dataset), bool)
    with_objects[images if chosen is None else images[np.isin(labels, chosen)]] = True
    rng = np.random.default_rng((seed, ORDER_DRAWS, 1))
    kept = with_objects.copy()
    others = np.flatnonzero(~with_objects if chosen is None else ~with_objects & (dataset.num_objects == 0))
    kept[rng.permutation(others)[: round(sampling.background * len(others))]] = True
    rows = np.flatnonzero(kept)
    if sampling.fraction < 1:
        rows = np.sort(rng.permutation(rows)[: max(1, round(sampling.fraction * len(rows)))])
    if not len(rows):
        raise ConfigError(f"No image of '{dataset.described_by}' is left to train on.", "Loosen the sampling.")
    return rows


def class_labels(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """(K,) labels of the named classes, None for all. Raises ConfigError for a name that the data set lacks."""
    if not classes:
        return None
    for name in classes:
        if name not in names:
            raise ConfigError(f"There is no class '{name}' in the data set.{did_you_mean(name, names)}")
    return np.array([names.index(name) for name in classes], np.int64)


def classes_of_objects(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """For every object of the data set, crowds included: the row of its image, and its label, (M,) each."""
    counts = dataset.num_objects
    images = np.repeat(np.arange(len(dataset)), counts)
    rows = np.arange(len(dataset.index)) if dataset.rows is None else dataset.rows
    within = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    labels = dataset.index.labels[dataset.index.object_offsets[:-1][rows][images] + within].astype(np.int64)
    return images, labels if dataset.relabel is None else dataset.relabel[labels]


def repeat_factors(dataset: Dataset, rows: np.ndarray, threshold: float) -> np.ndarray:
    """(I,) how often each of `rows` is shown an epoch, on average; 1 at least."""
    images, labels = classes_of_objects(dataset)
    place = np.full(len(dataset), -1)
    place[rows] = np.arange(len(rows))
    known = place[images] >= 0
    pairs = np.unique(np.stack([place[images[known]], labels[known]], 1), axis=0)
    share = np.bincount(pairs[:, 1], minlength=len(dataset.names)) / max(len(rows), 1)
    with np.errstate(divide="ignore"):
        repeats = np.maximum(1.0, np.sqrt(threshold / share))
    factors = np.ones(len(rows))
    np.maximum.at(factors, pairs[:, 0], repeats[pairs[:, 1]])
    return factors


@dataclass(frozen=True, eq=False)
class Order:
    """The images of every epoch.

    rows: (I,) of the data set.  factors: (I,) repeats, or None for one each.  endless: whether the epochs are parts of
    one stream of shuffles; without factors.
    """

    rows: np.ndarray
    factors: np.ndarray | None
    batch: int
    seed: int
    endless: bool = False
    _kept: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Batches of an epoch; the last is filled up with images of a second shuffle, as every batch is full."""
        return max(1, int(np.ceil(self._total / self.batch - 1e-9)))

    @property
    def _total(self) -> float:
        return len(self.rows) if self.factors is None else float(self.factors.sum())

    @property
    def size_of_last(self) -> int:
        """Images of the last batch that are not of the second shuffle."""
        return max(1, round(self._total) - (len(self) - 1) * self.batch)

    def epoch(self, epoch: int) -> np.ndarray:
        """(batches, batch) rows of the data set, in the order in which the epoch (0-based) shows them."""
        needed = len(self) * self.batch
        if self.endless:
            return self._stream(epoch * needed, needed).reshape(len(self), self.batch)
        rng, parts, found = np.random.default_rng((self.seed, ORDER_DRAWS, 2, epoch)), [], 0
        while found < needed:
            part = rng.permutation(self._repeated(rng))
            parts.append(part)
            found += len(part)
        return np.concatenate(parts)[:needed].reshape(len(self), self.batch)

    def rows_at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Rows of the data set at these places of an epoch (0-based); the same shape."""
        if epoch not in self._kept:
            self._kept.clear()
            self._kept[epoch] = self.epoch(epoch).reshape(-1)
        return self._kept[epoch][positions]

    def _stream(self, first: int, count: int) -> np.ndarray:
        """(count,) rows of the endless stream, from a place in it on."""
        images = len(self.rows)
        shuffles = range(first // images, -(-(first + count) // images))
        parts = [np.random.default_rng((self.seed, ORDER_DRAWS, 3, one)).permutation(self.rows) for one in shuffles]
        return np.concatenate(parts)[first % images :][:count]

    def _repeated(self, rng: np.random.Generator) -> np.ndarray:
        """Every row as often as its factor; a fraction is rounded up at random, with its own probability."""
        if self.factors is None:
            return self.rows
        whole = np.floor(self.factors)
        times = whole + (rng.random(len(self.rows)) < self.factors - whole)
        return np.repeat(self.rows, times.astype(np.int64))
