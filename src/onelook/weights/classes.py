"""Class rows of a prediction layer, carried from one list of classes to another by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onelook.networks.detector import ClassRows


@dataclass(frozen=True)
class ClassPlan:
    """Maps the classes of a model to the classes of a file whose rows they take.

    pairs: (class of the model, class of the file).  total: classes of the model.  by_name: whether names decided;
    otherwise classes are taken in their order.  theirs: the names of the file's classes, or how many they are where
    their names are unknown.
    """

    pairs: tuple[tuple[int, int], ...]
    total: int
    by_name: bool
    theirs: tuple[str, ...] | int

    @property
    def fresh(self) -> list[int]:
        """The classes of the model that the file does not have."""
        known = {ours for ours, _ in self.pairs}
        return [label for label in range(self.total) if label not in known]

    @property
    def is_identity(self) -> bool:
        """Whether every class keeps its place, and the file has no others."""
        there = self.theirs if isinstance(self.theirs, int) else len(self.theirs)
        return there == self.total == len(self.pairs) and all(ours == theirs for ours, theirs in self.pairs)


def plan_classes(ours: Sequence[str], count: int, theirs: Sequence[str], their_count: int) -> ClassPlan:
    """Maps `count` classes named `ours` to `their_count` classes named `theirs`; () where names are unknown.

    Names agree without regard to case and surrounding space. Where either side has no names, equal counts are taken in
    order, and other counts share nothing.
    """
    if ours and theirs:
        places: dict[str, int] = {}
        for label, name in enumerate(theirs):
            places.setdefault(_normalised(name), label)
        found = enumerate(places.get(_normalised(name)) for name in ours)
        pairs = tuple((label, place) for label, place in found if place is not None)
        return ClassPlan(pairs, count, by_name=True, theirs=tuple(theirs))
    same = tuple((label, label) for label in range(count)) if count == their_count else ()
    return ClassPlan(same, count, by_name=False, theirs=tuple(theirs) or their_count)


def _normalised(name: str) -> str:
    return " ".join(name.casefold().split())


def copy_class_rows(plan: ClassPlan, rows: ClassRows, current: Tensor, stored: Tensor) -> Tensor:
    """`current` (the model's tensor) with all rows of the file's `stored` that it can use; a new tensor.

    Rows that belong to no class are all taken.
    """
    mine = current.detach().clone().movedim(rows.axis, 0).unflatten(0, (rows.anchors, -1))
    file = stored.to(mine).movedim(rows.axis, 0).unflatten(0, (rows.anchors, -1))
    mine[:, : rows.before] = file[:, : rows.before]
    if rows.after:
        mine[:, -rows.after :] = file[:, -rows.after :]
    if plan.pairs:
        ours, theirs = (torch.tensor(labels) + rows.before for labels in zip(*plan.pairs))
        mine[:, ours] = file[:, theirs]
    return mine.flatten(0, 1).movedim(0, rows.axis)
