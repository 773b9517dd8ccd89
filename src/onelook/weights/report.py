"""The report of a load for the terminal, and the error for a file that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onelook.errors import WeightsError
from onelook.types import text_repr
from onelook.weights.problems import printable

_LISTED = 12


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_weights`; `str(report)` is for a terminal.

    path: the file.  format: what the file is.  model: name of the model.  form: "training" or "deploy", the form of the
    file's weights.  tensors, parameters: how many tensors of the model were set, and their values.  kept_classes,
    new_classes: names (or numbers) of the model's classes whose rows came from the file, and of those that keep their
    initialisation.  file_classes: the names of the file's classes, or how many they are where their names are unknown.
    notes: assumptions made.  part: what of the model they are.
    """

    path: str
    format: str
    model: str
    form: str
    tensors: int
    parameters: int
    kept_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    file_classes: tuple[str, ...] | int
    notes: tuple[str, ...] = field(default=())
    part: str = "one to one"

    __repr__ = text_repr

    def __str__(self) -> str:
        lines = [
            f"Loaded '{printable(self.path, 200)}' into {self.model}",
            f"  format   {self.format}, {self.form} form",
            f"  tensors  {self.tensors} ({self.parameters:,} values), {self.part}",
            f"  classes  {_classes(self.kept_classes, self.new_classes)}",
        ]
        return "\n".join([*lines, *(f"  note     {note}" for note in self.notes)])


def _classes(kept: tuple[str, ...], new: tuple[str, ...]) -> str:
    if not new:
        return f"all {len(kept)} loaded"
    start = f"{len(kept)} of {len(kept) + len(new)} loaded" + (f" ({_listed(kept, 6)})" if kept else "")
    return f"{start}; initialised, to be trained: {_listed(new, 6)}"


def _listed(names: Iterable[str], limit: int) -> str:
    all_names = [printable(name, 100) for name in names]
    more = len(all_names) - limit
    return ", ".join(all_names[:limit]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Mismatch:
    """The differences between the tensors of a file and of a model, with the file's names where it has any."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # name, in the file, in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def renamed(self, names: Mapping[str, str]) -> Mismatch:
        """The same, in other names where `names` knows them."""
        return Mismatch(
            tuple(names.get(name, name) for name in self.missing),
            tuple(names.get(name, name) for name in self.unexpected),
            tuple((names.get(name, name), theirs, ours) for name, theirs, ours in self.misshapen),
        )

    def error(self, path: str, model: str, likely: str | None) -> WeightsError:
        """The error that lists the first dozen of each kind, and names the variant that the file looks like."""
        parts = [f"'{path}' does not fit {model}."]
        shapes = [f"{name} is {list(theirs)}, not {list(ours)}" for name, theirs, ours in self.misshapen]
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        ):
            if names:
                parts.append(f"  {len(names)} {title}: {_listed(names, _LISTED)}")
        if likely == model:
            return WeightsError("\n".join(parts), "The file seems to be of another version or changed: take another.")
        return WeightsError("\n".join(parts), suggestion(likely))


def compare(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Mismatch:
    """The difference of two tables of names and shapes."""
    return Mismatch(
        tuple(name for name in wanted if name not in found),
        tuple(name for name in found if name not in wanted),
        tuple((name, found[name], shape) for name, shape in wanted.items() if found.get(name, shape) != shape),
    )


def suggestion(likely: str | None) -> str:
    """The remedy for a file that does not fit."""
    if likely is None:
        return "It looks like none of the known models; check which model these weights are for."
    return f"It looks like {likely}: build that model, or take a file made for this one."
