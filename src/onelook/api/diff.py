"""`onelook.diff`: the differences between two recipes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from onelook.api.open import PathLike
from onelook.config import Difference, to_plain, to_text
from onelook.config import diff as differences_of
from onelook.recipes import find_recipe
from onelook.types import text_repr


@dataclass(frozen=True)
class RecipeDiff(Sequence[Difference]):
    """The settings that two recipes have differently: a sequence of `Difference`.

    first, second: names of the recipes.  differences: the settings, in the order of the recipe.
    """

    first: str
    second: str
    differences: tuple[Difference, ...]

    @overload
    def __getitem__(self, index: int) -> Difference: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Difference, ...]: ...
    def __getitem__(self, index: int | slice) -> Difference | tuple[Difference, ...]:
        return self.differences[index]

    def __len__(self) -> int:
        return len(self.differences)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.differences)

    def to_dict(self) -> dict[str, Any]:
        """Both names, and path, before and after of every difference, as plain data."""
        rows = [{"path": one.path, "before": to_plain(one.before), "after": to_plain(one.after)} for one in self]
        return {"first": self.first, "second": self.second, "differences": rows}

    __repr__ = text_repr

    def __str__(self) -> str:
        """A line for each difference."""
        lines = [f"{one.path}: {to_text(one.before)} -> {to_text(one.after)}" for one in self]
        return "\n".join(lines) or "The two are the same."


def diff(before: object, after: object) -> RecipeDiff:
    """The differences between the settings of two recipes, in the order of the settings.

    before, after: recipes, or other settings of the same type; or names of models (their published training), recipe
    files, or folders of runs. Each path is a setting that `onelook.change` takes.
    """
    return RecipeDiff(
        _name(before, "before"), _name(after, "after"), tuple(differences_of(_value(before), _value(after)))
    )


def _name(value: object, otherwise: str) -> str:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else otherwise


def _value(value: object | PathLike) -> object:
    return find_recipe(os.fspath(value)) if isinstance(value, str | os.PathLike) else value
