"""Divides images among splits: the same share of every class in each, and what belongs together on one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onelook.data.near_duplicates import near_duplicates, tiny_images
from onelook.data.objects import flat_objects
from onelook.data.sequences import augmented_copies, runs_of_sequences
from onelook.data.split import Dataset
from onelook.errors import DataError, UsageError
from onelook.reporter import Reporter


@dataclass(frozen=True)
class Division:
    """The rows of a data set, divided.

    rows: by the name of the split, ascending.  groups: how many images belong to a group of several that stays on one
    side, by its kind ("near-duplicates", "sequences", "copies").  notes: what else there is to know.
    """

    rows: Mapping[str, np.ndarray]
    groups: Mapping[str, int]
    notes: tuple[str, ...] = ()


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raises `UsageError` where the fractions of the splits beside train are not between 0 and 1, together below 1."""
    for split, share in fractions.items():
        if not 0 < share < 1:
            raise UsageError(f"'{split}' must be a fraction between 0 and 1, not {share:g}.", "0.2 is a fifth.")
    if sum(fractions.values()) >= 1:
        raise UsageError(f"{' and '.join(fractions)} leave no images to train on.", "Their sum must be below 1.")


def divide(dataset: Dataset, fractions: Mapping[str, float], seed: int, reporter: Reporter) -> Division:
    """Divides a data set into train and others.

    fractions: the share of the images of each split beside train, such as {"val": 0.2}.  seed: for ties and the order
    of equals; the same seed divides the same images equally.

    Near-duplicates, sequences and augmented copies of an image stay on one side. Classes are distributed by iterative
    stratification (Sechidis, Tsoumakas, Vlahavas 2011, alg. 1) over groups of images: the rarest class first, each
    group to the split that lacks most of it. Raises `DataError` where a split would have no image.
    """
    check_fractions(fractions)
    if seed < 0:
        raise UsageError(f"The seed is {seed}.", "Give 0 or more: --seed 1.")
    if dataset.shards:
        raise DataError(
            f"'{dataset.described_by}' is in shards, which are not divided as they are.",
            "Divide the data set that they were made of, or write files: onelook convert DATA --to coco --out FOLDER",
        )
    names = [dataset.file_name(row) for row in range(len(dataset))]
    with reporter.progress("Comparing images") as progress:
        tiny = tiny_images([dataset.file(row) for row in range(len(dataset))], progress)
    longest = max(1, int(min(*fractions.values(), 1.0) * len(names)))
    group_of, counts, notes = _groups(names, dataset.names, tiny, longest)
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    side = _distribute(_class_counts(dataset), group_of, list(shares.values()), np.random.default_rng(seed))
    rows = {split: np.flatnonzero(side == number) for number, split in enumerate(shares)}
    for split, found in rows.items():
        if not len(found):
            groups = int(group_of.max(initial=-1)) + 1
            raise DataError(
                f"The split '{split}' would have no image: there are {len(names)}, in {groups} groups that belong "
                "together (near-duplicates, sequences).",
                "Give it a larger fraction, or add images that differ.",
            )
    return Division(rows, counts, tuple(notes))


def _groups(
    names: Sequence[str], classes: Sequence[str], tiny: np.ndarray, longest: int
) -> tuple[np.ndarray, dict[str, int], list[str]]:
    """((I,) number of each image's group, how many images each kind of group has brought together, notes)."""
    union = _Union(len(names))
    counts = {"near-duplicates": 0, "sequences": 0, "copies": 0}
    copies = augmented_copies(names)
    for rows in copies:
        union.join(np.array(rows))
    counts["copies"] = sum(map(len, copies))
    runs = runs_of_sequences(names, classes, tiny, longest)
    for run in runs.rows:
        union.join(run)
    counts["sequences"] = sum(map(len, runs.rows))
    alike = np.zeros(len(names), bool)
    for first, second in near_duplicates(tiny):
        alike[first] = alike[second] = True
        cut = (runs.cut_from[first] == runs.cut_from[second]) & (runs.cut_from[first] >= 0)
        for one, other, same_sequence in zip(first.tolist(), second.tolist(), cut.tolist()):
            # Neighbours where a sequence was cut look alike as well, and would join its pieces again.
            if not same_sequence or union.size(one) + union.size(other) <= longest:
                union.join(np.array([one, other]))
    counts["near-duplicates"] = int(alike.sum())
    return union.numbers(), {kind: count for kind, count in counts.items() if count}, runs.notes


class _Union:
    """Disjoint sets of rows (union by size)."""

    def __init__(self, count: int) -> None:
        self._parent, self._size = np.arange(count), np.ones(count, np.int64)

    def root(self, row: int) -> int:
        """The row that stands for the set of a row."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    def size(self, row: int) -> int:
        """How many rows the set of a row has."""
        return int(self._size[self.root(row)])

    def join(self, rows: np.ndarray) -> None:
        """Makes one set of the sets of these rows."""
        first = self.root(int(rows[0]))
        for row in rows[1:].tolist():
            other = self.root(row)
            if other == first:
                continue
            if self._size[other] > self._size[first]:
                first, other = other, first
            self._parent[other] = first
            self._size[first] += self._size[other]

    def numbers(self) -> np.ndarray:
        """(N,) number of each row's set, from 0."""
        roots = np.array([self.root(row) for row in range(len(self._parent))], np.int64)
        return np.unique(roots, return_inverse=True)[1].reshape(-1)


def _class_counts(dataset: Dataset) -> np.ndarray:
    """(I, C + 2) float: boxes of each class in each image, whether it has none, and 1 for the image itself."""
    images, _, labels, _ = flat_objects(dataset)
    counts = np.zeros((len(dataset), len(dataset.names) + 2))
    np.add.at(counts, (images, labels), 1.0)
    counts[:, -2] = counts.sum(axis=1) == 0
    counts[:, -1] = 1.0
    return counts


def _distribute(
    counts: np.ndarray, group_of: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """(I,) the split of each image. counts: of `_class_counts`.  shares: of the splits, with sum 1."""
    num_groups = int(group_of.max(initial=-1)) + 1
    totals = np.zeros((num_groups, counts.shape[1]))
    np.add.at(totals, group_of, counts)
    lacking = np.outer(shares, counts.sum(axis=0))  # (S, C + 2) what each split still lacks
    side = np.full(num_groups, -1)
    order = rng.permutation(num_groups)
    columns = totals[:, :-1]
    while (waiting := np.flatnonzero(side < 0)).size:
        left = columns[waiting].sum(axis=0)
        rarest = int(np.argmin(np.where(left > 0, left, np.inf)))
        members = waiting[columns[waiting, rarest] > 0]
        # Large groups first: small ones then even out what they have disturbed.
        members = members[np.lexsort((order[members], -totals[members, -1]))]
        for group in members.tolist():
            # Rounded, so that equals are equal on every processor; of those the one that lacks most images.
            best = max(range(len(shares)), key=lambda one: tuple(np.round(lacking[one, [rarest, -1]], 6)))
            full = round(lacking[best, -1], 6) < 0.5  # images: classes of few objects would all go to the largest split
            if full or totals[group, -1] > lacking[best, -1] + 1:
                best = int(np.argmax(np.round(lacking[:, -1], 6)))
            side[group] = best
            lacking[best] -= totals[group]
    return side[group_of]
