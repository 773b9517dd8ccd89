"""Sequences of images by their names: the frames of a video, a series of shots, copies that a tool has augmented."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onelook.data.near_duplicates import mean_difference

MOST_LEVELS = 24.0  # of 255: neighbours of a sequence differ less, as the median; unrelated photographs by 45 to 70
_PIECES = 4  # of a sequence that is longer than a side, so many or more fill that side
_SEQUENCE_WORDS = frozenset(
    ("frame", "frames", "clip", "video", "vid", "seq", "sequence", "scene", "mp4", "avi", "mov", "mkv")
)
_NUMBER = re.compile(r"(\d+)(?!.*\d)")  # the last number of a name
_WORDS = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class NamedSequence:
    """Images of one folder whose names differ in their last number only. rows: of the images, by that number."""

    folder: str
    stem: str
    rows: np.ndarray


def augmented_copies(names: Sequence[str]) -> list[list[int]]:
    """Rows of images that are copies of one: Roboflow names them `{image}.rf.{digest}.jpg`."""
    copies: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        start, mark, _ = name.rpartition(".rf.")
        if mark:
            copies.setdefault(start.rpartition("/")[2], []).append(row)
    return [rows for rows in copies.values() if len(rows) > 1]


def named_sequences(names: Sequence[str]) -> list[NamedSequence]:
    """Images whose names have running numbers, by folder and the rest of the name."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for row, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        stem = os.path.splitext(file)[0].partition(".rf.")[0]
        match = _NUMBER.search(stem)
        if match is not None:
            key = (folder, f"{stem[: match.start()]}#{stem[match.end() :]}")
            found.setdefault(key, []).append((int(match[1][-18:]), row))
    return [
        NamedSequence(folder, stem, np.array([row for _, row in sorted(numbered)], np.int64))
        for (folder, stem), numbered in found.items()
        if len(numbered) > 1
    ]


@dataclass(frozen=True)
class Runs:
    """Runs of neighbours by number. rows: of each run, which belongs on one side.  cut_from: (I,) number of the
    sequence that was cut, for each image in one, else -1.  notes: what was cut, for the user."""

    rows: list[np.ndarray]
    cut_from: np.ndarray
    notes: list[str] = field(default_factory=list)


def runs_of_sequences(names: Sequence[str], classes: Sequence[str], tiny: np.ndarray, longest: int) -> Runs:
    """Images that belong together because their names have running numbers.

    names, tiny: of the images, and the images themselves (`tiny_images`).  classes: names of the classes.  longest: the
    most images that one side can take at once.

    A series of names is a sequence where its name says so (`clip3_frame_0017`), or where neighbours look alike. Of
    other series (`IMG_0017`, `000017`, `cat_17`) only neighbours that look alike belong together. A sequence that is
    longer than a side is cut, where the images change most, so that only a few neighbours come on different sides.
    """
    runs = Runs([], np.full(len(names), -1))
    for number, sequence in enumerate(named_sequences(names)):
        rows = sequence.rows
        steps = mean_difference(tiny, rows[:-1], rows[1:])
        if _says_sequence(sequence, classes) or float(np.median(steps)) <= MOST_LEVELS:
            whole = [rows]
        else:
            whole = np.split(rows, np.flatnonzero(steps > MOST_LEVELS / 2) + 1)
        for run in whole:
            pieces = [run] if len(run) <= longest else _cut(run, tiny, max(1, longest // _PIECES))
            runs.rows.extend(piece for piece in pieces if len(piece) > 1)
            if len(pieces) > 1:
                runs.cut_from[run] = number
                shown = f"{sequence.folder}/{sequence.stem}".strip("/")
                runs.notes.append(f"the sequence '{shown}' has {len(run)} images, so it is cut into {len(pieces)} runs")
    return runs


def _says_sequence(sequence: NamedSequence, classes: Sequence[str]) -> bool:
    """Whether a name has a word for sequences, and is not that of a class."""
    words = set(_WORDS.findall(sequence.stem.lower()))
    return bool(words & _SEQUENCE_WORDS) and not words & {name.lower() for name in classes}


def _cut(run: np.ndarray, tiny: np.ndarray, longest: int) -> list[np.ndarray]:
    """Cuts a run in pieces of at most `longest` images, each time where neighbours differ most in its middle half."""
    if len(run) <= longest:
        return [run]
    low, high = len(run) // 4, max(len(run) // 4 + 1, 3 * len(run) // 4)
    steps = np.minimum(mean_difference(tiny, run[low : high - 1], run[low + 1 : high]), 256.0)
    place = low + 1 + int(np.argmax(steps)) if len(steps) else len(run) // 2
    return [*_cut(run[:place], tiny, longest), *_cut(run[place:], tiny, longest)]
