"""Class names: lists of them in text files, one name a line, and how many there may be."""

from __future__ import annotations

from pathlib import Path

from onelook.data.paths import read_text
from onelook.errors import DataError

CLASS_LIMIT = 65_536
"""The most classes a data set may have; three times those of the largest public one (ImageNet-21k)."""

_LIMIT = 1 << 20  # bytes


def read_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line. Raises `DataError` for an empty line and for a name given twice."""
    names = [line.strip() for line in read_text(path, _LIMIT).split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise DataError(f"'{path}' must have one class name on every line.", "Remove empty lines.")
    return unique_names(tuple(names), path)


def unique_names(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """The same names. Raises `DataError`, naming the file, where one is given twice."""
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"'{path}' has the class name '{repeated[0]}' more than once.", "Give each class its own name.")
    return names


def first_names(root: Path, files: tuple[str, ...]) -> tuple[str, ...] | None:
    """The class names of the first of these files that is in a folder; None where there is none."""
    return next((read_names(root / name) for name in files if (root / name).is_file()), None)
