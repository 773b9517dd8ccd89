"""Changes of the classes of a data set: renaming, merging, leaving out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onelook.errors import DataError, did_you_mean

LEAVE_OUT = -1
"""The label of objects whose class is left out."""


@dataclass(frozen=True)
class ClassEdits:
    """Changes of classes, in the order in which they are made; each names the classes that the one before has left.

    rename: the new name of a class, by its old one; all at once, so that two may exchange their names.  merge: the
    classes that become one, by the name of that one.  drop: classes whose objects are left out.  only: the classes
    whose objects are kept; () for all. The images stay, without these objects.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rename or self.merge or self.drop or self.only)

    def apply(self, names: Sequence[str], place: str) -> tuple[list[str], np.ndarray]:
        """(new names, (C,) new label of each class, `LEAVE_OUT` where its objects are left out).

        The new names are in the order of the old ones. place: where the changes are written, for messages. Raises
        `DataError` for a class that does not exist, and for two that would have one name without being merged.
        """
        now = list(names)
        for old, new in self.rename.items():
            _check_known(old, names, f"{place}: 'rename'")
            if new in names and new not in self.rename:
                remedy = f"Merge them instead: {old},{new}={new}."
                raise DataError(f"{place}: 'rename' gives '{old}' the name of another class, '{new}'.", remedy)
        now = [self.rename.get(name, name) for name in now]
        if repeated := sorted({name for name in now if now.count(name) > 1} if len(set(now)) < len(now) else ()):
            remedy = "Rename one of them, and merge the other with it."
            raise DataError(f"{place}: 'rename' gives several classes the name '{repeated[0]}'.", remedy)
        renamed = list(now)
        for new, members in self.merge.items():
            for name in members:
                _check_known(name, renamed, f"{place}: 'merge'")
            if new in renamed and new not in members:
                remedy = f"Name it among those that are merged: {','.join((*members, new))}={new}."
                raise DataError(f"{place}: 'merge' makes '{new}', which is another class already.", remedy)
            now = [new if old in members else name for old, name in zip(renamed, now)]
        for key, listed in (("drop", self.drop), ("only", self.only)):
            for name in listed:
                _check_known(name, now, f"{place}: '{key}'")
        kept = [name for name in dict.fromkeys(now) if name not in self.drop and (not self.only or name in self.only)]
        if not kept:
            raise DataError(f"{place}: no class is left.", "Leave fewer classes out.")
        label = {name: number for number, name in enumerate(kept)}
        return kept, np.array([label.get(name, LEAVE_OUT) for name in now], np.int64)


def _check_known(name: str, names: Sequence[str], place: str) -> None:
    if name not in names:
        shown = ", ".join(dict.fromkeys(names[:50])) + (" and more" if len(names) > 50 else "")
        raise DataError(
            f"{place}: there is no class '{name}'.{did_you_mean(name, names)}", f"The classes are: {shown}."
        )


def check_merges(merge: Mapping[str, Sequence[str]], place: str) -> None:
    """Raises `DataError` for a class that two merges name."""
    seen: dict[str, str] = {}
    for new, members in merge.items():
        for name in members:
            if seen.setdefault(name, new) != new:
                raise DataError(f"{place}: 'merge' names '{name}' for '{seen[name]}' and for '{new}'.", "Name it once.")
