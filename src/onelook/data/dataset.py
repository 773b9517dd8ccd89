"""A data set: its splits, and `open_dataset`, which finds the format and builds or maps the index of one of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onelook.config import check_arguments
from onelook.data import cache
from onelook.data.find import find_source
from onelook.data.formats.base import ReadSplit, Source
from onelook.data.index import MEASURED, Index
from onelook.data.problems import Problems
from onelook.data.remote import Url
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE, split_word
from onelook.errors import DataError
from onelook.reporter import PlainReporter, Reporter

log = logging.getLogger("onelook.data")


def splits(data: str | Path) -> tuple[str, ...]:
    """The names of the splits of a data set; ("all",) for one that is not divided. Raises `DataError`."""
    return tuple(find_source(data).parts)


def open_dataset(data: str | Path, split: str = "val", *, reporter: Reporter | None = None) -> Dataset:
    """Opens one split of a data set, whatever its format.

    data: a folder, a YAML file, a COCO JSON file, or a URL or pattern of tar files (shards).  reporter: shows the
    progress of the first opening, and a warning where a data set without splits is used whole for the split asked for;
    None prints plain lines on standard error.

    The first opening builds an index. Later ones map it within a fraction of a second, as long as the annotations stay
    as they are. The index is kept in the folder `.onelook` beside the data, which is said where it is made; where that
    folder is read-only, in the user's cache. Raises `DataError` for a split that does not exist and for annotations
    that contradict themselves, naming file and line.
    """
    check_arguments(open_dataset, locals())
    reporter = PlainReporter() if reporter is None else reporter
    source = find_source(data)
    format, name = source.format, source.resolve(split)
    if name == WHOLE != split:
        reporter.warning(f"'{source.described_by}' is not divided into splits: all of it is used as '{split}'.")
    index = cache.load(
        _key(source, name),
        source.root,
        lambda: format.files_of(source, name),
        lambda: _build(source, name, reporter),
        partial(_measured, source, name),
        announce=reporter.info,
    )
    if not len(index):
        raise DataError(
            f"The split '{name}' of '{source.described_by}' has no images.", "Add images, or use another split."
        )
    notes = (*source.notes, *index.meta.get("notes", ()))
    for note in notes:
        log.info("'%s': %s", source.described_by, note)
    dataset = _of_index(source, name, index, format.image_root(source, name, index), notes)
    return dataset if name != WHOLE else replace(dataset, split=split_word(split) or split)


def dataset_of(part: ReadSplit) -> Dataset:
    """A split as it was read for a check: without what is faulty."""
    notes = (*part.source.notes, *part.index.meta.get("notes", ()))
    return _of_index(part.source, part.split, part.index, part.root, notes)


def _of_index(source: Source, name: str, index: Index, root: Path, notes: tuple[str, ...]) -> Dataset:
    """The data set of one split. root: the folder of its images."""
    format = source.format
    return Dataset(
        index,
        names=tuple(index.meta["names"]),
        category_ids=tuple(index.meta["category_ids"]),
        root=root,
        format=format.name,
        format_title=format.title,
        split=name,
        described_by=source.described_by,
        annotations=source.parts[name].annotations,
        shards=source.parts[name].shards,
        has_boxes=format.has_boxes,
        has_ids=format.has_ids,
        ignores_difficult=format.ignores_difficult,
        notes=notes,
    )


def _build(source: Source, split: str, reporter: Reporter) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with reporter.progress(f"Indexing {source.described_by.name or source.described_by} ({split})") as progress:
        return source.format.read(source, split, Problems(), progress)


def _measured(source: Source, split: str, index: Index) -> Iterator[tuple[str, str]]:
    """The images whose sizes were read from their files, where the format does not list all images anyway."""
    rows = [] if source.format.lists_images else np.flatnonzero(index.image_flags & MEASURED).tolist()
    if not rows:
        return
    try:
        root = source.format.image_root(source, split, index)
    except DataError:  # images that are gone are reported when they are opened
        root = source.root
    yield from ((index.name(row), f"{root}/{index.name(row)}") for row in rows)


def _key(source: Source, split: str) -> str:
    """The name of an index: it differs by split, format, and the file that describes the data set."""
    format = source.format.name
    what = "" if source.described_by == source.root else source.described_by.name
    if isinstance(source.described_by, Url):
        what = source.described_by
    digest = hashlib.blake2b(f"{format}:{what}:{split}".encode(errors="replace"), digest_size=4).hexdigest()
    plain = "".join(mark if mark.isascii() and mark.isalnum() else "_" for mark in split)[:40]
    return f"{format}-{plain}-{digest}"
