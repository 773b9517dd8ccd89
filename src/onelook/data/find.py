"""Finds out which format a data set has, by its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from onelook.data import formats
from onelook.data.description import description_in
from onelook.data.edit_file import is_edit_file
from onelook.data.edited import edited_source
from onelook.data.formats.base import Source
from onelook.errors import DataError

_REMEDY = "Give a folder, or the file that describes a data set (YAML, JSON, CSV, XML or Parquet)."
_MOST_BELOW = 20  # folders that are looked into where there is no data set
_DEEPEST = 8  # edit files, each of which names the next


def find_source(data: str | Path) -> Source:
    """The data set at this place, whatever its format.

    data: a folder, a file that describes a data set, or a URL or pattern of shards. Raises `DataError` where there is
    none, naming what was looked for.
    """
    return _find(data, ())


def _find(data: str | Path, inside: tuple[Path, ...]) -> Source:
    """The same. inside: the edit files that name it, the outermost first."""
    if (source := _by_pattern(os.fspath(data))) is not None:
        return source
    path = Path(data).expanduser()
    try:
        path = path.absolute()
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise DataError(f"'{data}' is not a usable path: {error}.", _REMEDY) from error
    if not exists:
        raise DataError(f"The data set '{data}' does not exist.", _REMEDY)
    if not is_folder:
        if not path.is_file():  # opening a pipe would block for ever
            raise DataError(f"'{data}' is neither a folder nor an ordinary file.", _REMEDY)
        if (source := _described_by(path, inside)) is None:
            raise DataError(f"'{data}' is neither a folder nor a file that describes a data set.", _REMEDY)
        return source
    description = description_in(path)
    used = description is not None and description.resolve() not in inside
    if description is not None and used and (source := _described_by(description, inside)) is not None:
        return source
    return _in_folder(path, data)


def _by_pattern(text: str) -> Source | None:
    found = (format.find_pattern(text) for format in formats.FORMATS)
    return next((source for source in found if source is not None), None)


def _described_by(path: Path, inside: tuple[Path, ...]) -> Source | None:
    if is_edit_file(path):
        if path.resolve() in inside or len(inside) == _DEEPEST:
            raise DataError(f"{path}: 'from' leads back to this file.", "Name the data sets themselves.")
        return edited_source(path, lambda place: _find(place, (*inside, path.resolve())))
    found = (format.find_file(path) for format in formats.FORMATS)
    return next((source for source in found if source is not None), None)


def _in_folder(path: Path, data: str | Path) -> Source:
    usual, exported, any_folder = ([format for format in formats.FORMATS if format.rank == rank] for rank in range(3))
    searches_flat = [format.find_flat for format in (*usual, *exported)]
    sources = _found(path, [format.find for format in usual])
    if not sources and (sources := _found(path, [format.find for format in exported])):
        flat = [source for source in _found(path, searches_flat) if source.format is not sources[0].format]
        if flat:  # it has no file that could be named
            titles = " and ".join(source.format.title for source in flat)
            note = f"also holds {titles} annotations, which are not used; move them and their images apart to use them"
            sources[0] = replace(sources[0], notes=(*sources[0].notes, note))
    sources = sources or _found(path, searches_flat) or _found(path, [format.find for format in any_folder])
    if not sources:
        known = "; ".join(f"{format.title} ({format.layout})" for format in formats.FORMATS)
        raise DataError(f"No data set was recognised in '{data}'.{_below(path)}", f"Expected one of: {known}.")
    first, *others = sources
    if not others:
        return first
    titles = " and ".join(source.format.title for source in others)
    note = f"also holds {titles} annotations, which are not used; name their file (YAML or JSON) to use them"
    return replace(first, notes=(*first.notes, note))


def _below(path: Path) -> str:
    """A hint at a data set in one of the folders below, as an unpacked archive may have it; "" without one."""
    for folder in sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))[:_MOST_BELOW]:
        for format in formats.FORMATS:
            try:
                found = (format.find(folder) or format.find_flat(folder)) if format.rank < 2 else None
            except DataError:
                found = None
            if found is not None:
                return f" There is one in its folder '{folder.name}': name that folder."
    return ""


def _found(path: Path, searches: Iterable[Callable[[Path], Source | None]]) -> list[Source]:
    return [source for search in searches if (source := search(path)) is not None]
