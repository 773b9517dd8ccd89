"""The video sequences of a data set, from its annotations or the folders of its images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from onelook.errors import DataError


@dataclass(frozen=True, eq=False)
class Sequence:
    """One video. name: of its folder.  rows: (N,) int64 rows of the data set's images, in the order of time."""

    name: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class Frames(Protocol):
    """A data set of video frames: `data.Dataset` is one."""

    def __len__(self) -> int: ...

    def file_name(self, i: int, /) -> str: ...

    def image_extra(self, i: int, /) -> dict[str, Any]: ...


def sequences_of(dataset: Frames) -> list[Sequence]:
    """The sequences of a data set, in the order of their first images.

    Images that name their sequence (`sid`, as in Argoverse-HD; `video_id`, as in YouTube-VIS) are divided by it and
    keep the order of the annotation file. Others are divided by their folder and ordered by the numbers in their names.
    Raises DataError where some images name a sequence and others do not, and for a data set without images.
    """
    if not len(dataset):
        raise DataError("The data set has no images, so no video.", "Give a data set of video frames.")
    given = [_given_sequence(dataset.image_extra(i)) for i in range(len(dataset))]
    missing = [i for i, one in enumerate(given) if one is None]
    folders = [PurePosixPath(dataset.file_name(i)).parent.as_posix() for i in range(len(dataset))]
    if len(missing) == len(given):
        by_name = sorted(range(len(dataset)), key=lambda i: numbers_in(dataset.file_name(i)))
        groups = _grouped((folders[i], i) for i in by_name)
        return [_sequence(folder, rows) for folder, rows in sorted(groups.items(), key=lambda group: min(group[1]))]
    if missing:
        raise DataError(
            f"The image '{dataset.file_name(missing[0])}' has no 'sid', but others have one.",
            "Give every image the number of its sequence, or none.",
        )
    groups = _grouped((str(one), i) for i, one in enumerate(given))
    return [_sequence(folders[rows[0]], rows) for rows in groups.values()]


def numbers_in(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts names by the numbers in them: frame-9 before frame-10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"([0-9]+)", name) if part)


def _given_sequence(extra: dict[str, Any]) -> object:
    return extra.get("sid", extra.get("video_id"))


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return groups


def _sequence(folder: str, rows: list[int]) -> Sequence:
    return Sequence("all images" if folder == "." else folder, np.array(rows, np.int64))
