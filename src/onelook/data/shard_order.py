"""The order of the images of a data set in shards: shuffled a few shards at a time, with bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from onelook.data.order import ORDER_DRAWS, Order, Sampling, repeat_factors
from onelook.data.split import Dataset
from onelook.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ShardOrder:
    """The images of every epoch: shards in a new random order, in it `window` at a time shuffled together.

    bounds: (S + 1,) in `rows`, where the images of each shard begin, and their end.  rows: (I,) of the data set, shard
    by shard; None for all, which takes no memory.  window: of shards; an image is at most so many shards away from its
    neighbours in the epoch.  endless: as of `Order`.

    Any place of an epoch is found from seed, epoch and place alone, so every process and a resumed training agree.
    Only the rows of the current window are in memory.
    """

    bounds: np.ndarray
    rows: np.ndarray | None
    batch: int
    seed: int
    window: int
    endless: bool = False
    _kept: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Batches of an epoch; the last is filled up with images of a second shuffle."""
        return max(1, -(-self.num_images // self.batch))

    @property
    def num_images(self) -> int:
        return int(self.bounds[-1])

    @property
    def size_of_last(self) -> int:
        """Images of the last batch that are not of the second shuffle."""
        return max(1, self.num_images - (len(self) - 1) * self.batch)

    def rows_at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Rows of the data set at these places of an epoch (0-based); the same shape."""
        places = np.asarray(positions, np.int64)
        if self.endless:
            places = places + epoch * len(self) * self.batch
        shuffles, within = np.divmod(places, self.num_images)
        found = np.empty(places.shape, np.int64)
        for shuffle in np.unique(shuffles).tolist():
            chosen = shuffles == shuffle
            found[chosen] = self._shuffled(0 if self.endless else epoch, shuffle, within[chosen])
        return found

    def _shuffled(self, epoch: int, shuffle: int, places: np.ndarray) -> np.ndarray:
        shards = np.random.default_rng((self.seed, ORDER_DRAWS, 4, epoch, shuffle)).permutation(len(self.bounds) - 1)
        ends = np.cumsum(np.diff(self.bounds)[shards])
        windows = np.searchsorted(ends, places, side="right") // self.window
        found = np.empty(places.shape, np.int64)
        for number in np.unique(windows).tolist():
            first = number * self.window
            begin = int(ends[first - 1]) if first else 0
            chosen = windows == number
            found[chosen] = self._window(epoch, shuffle, number, shards[first : first + self.window])[
                places[chosen] - begin
            ]
        return found

    def _window(self, epoch: int, shuffle: int, number: int, shards: np.ndarray) -> np.ndarray:
        """The shuffled rows of a window. The last few are kept: batches are asked for in order."""
        key = (epoch, shuffle, number)
        if key not in self._kept:
            while len(self._kept) > 2:
                self._kept.pop(next(iter(self._kept)))
            places = np.concatenate([np.arange(*self.bounds[shard : shard + 2]) for shard in shards.tolist()])
            rng = np.random.default_rng((self.seed, ORDER_DRAWS, 5, *key))
            order = rng.permutation(places)
            self._kept[key] = order if self.rows is None else self.rows[order]
        return self._kept[key]


def make_order(
    dataset: Dataset, rows: np.ndarray | range, sampling: Sampling, batch: int, seed: int
) -> Order | ShardOrder:
    """The order in which a training shows the images of a data set.

    rows: ascending, those that are trained on; a range for all. Raises `ConfigError` where `sampling` has a window of
    shards and the data set is not in shards.
    """
    if sampling.shard_window:
        return _order_of_shards(dataset, None if isinstance(rows, range) else rows, batch, seed, sampling)
    every = np.arange(len(rows)) if isinstance(rows, range) else rows
    factors = repeat_factors(dataset, every, sampling.repeat_factor) if sampling.repeat_factor else None
    return Order(every, factors, batch, seed, endless=sampling.last_batch == "stream")


def _order_of_shards(
    dataset: Dataset, rows: np.ndarray | None, batch: int, seed: int, sampling: Sampling
) -> ShardOrder:
    window, endless = sampling.shard_window, sampling.last_batch == "stream"
    places = dataset.index.member_places
    if not len(places):
        raise ConfigError(
            f"'{dataset.described_by}' is not in shards, so sampling.shard_window={window} has no meaning for it.",
            "Leave it at 0, or write shards: onelook convert DATA --to shards --out FOLDER",
        )
    count = len(dataset.shards)
    if rows is None and dataset.rows is None:
        bounds = [bisect_left(range(len(places)), shard, key=lambda row: int(places[row, 0])) for shard in range(count)]
        return ShardOrder(np.array([*bounds, len(places)]), None, batch, seed, window, endless)
    rows = np.arange(len(dataset)) if rows is None else rows
    shards = places[rows if dataset.rows is None else dataset.rows[rows], 0]
    rows = rows[np.argsort(shards, kind="stable")]
    return ShardOrder(np.searchsorted(np.sort(shards), np.arange(count + 1)), rows, batch, seed, window, endless)
