"""Which image and which object a problem of a data set is about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onelook.data.formats.base import ReadSplit
from onelook.data.problems import Problem

_FEW_IMAGES = 8  # of one annotation file, whose objects are looked through one by one

Place = tuple[int, int]  # number of the split in the list of those that were read, row of the image


@dataclass
class ImageProblems:
    """The problems of one image. things: the faulty ones among its objects that were read, as rows of the index."""

    problems: list[Problem] = field(default_factory=list)
    things: set[int] = field(default_factory=set)

    @property
    def codes(self) -> set[str]:
        """The kinds of the problems."""
        return {problem.code for problem in self.problems}


@dataclass(frozen=True)
class PlacedProblems:
    """by_image: the problems of each image that has some.  others: those that concern no image that was read."""

    by_image: dict[Place, ImageProblems]
    others: list[Problem]


def place_problems(read: Sequence[ReadSplit], problems: Sequence[Problem]) -> PlacedProblems:
    """Finds the image of each problem: by the image's file, its annotation file, or the object's line or id.

    An image of two splits (trainval) has its problems in both.
    """
    by_image: dict[Place, ImageProblems] = {}
    others: list[Problem] = []
    known = _Places(read) if problems else None
    for problem in problems:
        found = [] if known is None else known.of(problem)
        for place, thing in found:
            entry = by_image.setdefault(place, ImageProblems())
            if not entry.problems or entry.problems[-1] is not problem:
                entry.problems.append(problem)
            if thing is not None:
                entry.things.add(thing)
        if not found:
            others.append(problem)
    return PlacedProblems(by_image, others)


class _Places:
    """The images and objects of all splits, by what problems name."""

    def __init__(self, read: Sequence[ReadSplit]) -> None:
        self._read = read
        self._images: dict[str, list[Place]] = {}
        self._annotated: dict[str, list[Place]] = {}  # by annotation file
        for number, part in enumerate(read):
            for row in range(len(part.index)):
                self._images.setdefault(os.path.abspath(part.image_path(row)), []).append((number, row))
                self._annotated.setdefault(part.annotation_file(row), []).append((number, row))
        self._objects = [
            (_sorted(part.index.annotation_ids), _sorted(part.object_lines), _sorted(part.image_lines)) for part in read
        ]

    def of(self, problem: Problem) -> list[tuple[Place, int | None]]:
        """(image, object or None) of a problem; [] where it concerns no image that was read."""
        if problem.file is None:
            return []
        images = self._images.get(os.path.abspath(problem.file))
        if images is not None:
            return [(place, None) for place in images]
        places = self._annotated.get(problem.file, [])
        if not places:
            return []
        found = [
            one
            for number in dict.fromkeys(number for number, _ in places)
            for one in self._named(problem, number, places)
        ]
        mine = set(places) if found else set()
        found = [one for one in found if one[0] in mine]
        if found or len({self._read[number].image_path(row) for number, row in places}) > 1:
            return found
        return [(place, None) for place in places]  # the file annotates this image alone

    def _named(self, problem: Problem, number: int, places: Sequence[Place]) -> list[tuple[Place, int | None]]:
        """What the id or the line of a problem names in one split. places: the images of the problem's file."""
        part, (ids, lines, image_lines) = self._read[number], self._objects[number]
        things: list[int] = []
        if problem.annotation is not None:
            things = _equal(ids, problem.annotation) if part.source.format.has_ids else []
        elif problem.line is not None:
            things = self._on_line(lines, problem.line, number, places)
        if things:
            rows = np.searchsorted(part.index.object_offsets, things, side="right") - 1
            return [((number, row), thing) for row, thing in zip(rows.tolist(), things)]
        if problem.line is None or problem.annotation is not None:
            return []
        if len(places) <= _FEW_IMAGES:
            own = (row for place, row in places if place == number)
            return [((number, row), None) for row in own if part.image_lines[row] == problem.line]
        return [((number, row), None) for row in _equal(image_lines, problem.line)]

    def _on_line(self, lines: _Sorted, line: int, number: int, places: Sequence[Place]) -> list[int]:
        """The objects on a line. Where each image has a file of its own, a first line is in every one of them."""
        if len(places) > _FEW_IMAGES:
            return _equal(lines, line)
        part, found = self._read[number], []
        for row in (row for place, row in places if place == number):
            start, stop = part.index.object_offsets[row : row + 2].tolist()
            found += (start + np.flatnonzero(part.object_lines[start:stop] == line)).tolist()
        return found


_Sorted = tuple[np.ndarray, np.ndarray]


def _sorted(values: np.ndarray) -> _Sorted:
    """The values in ascending order, and where they were."""
    order = np.argsort(values, kind="stable")
    return values[order], order


def _equal(known: _Sorted, value: int) -> list[int]:
    """Where a value was."""
    values, order = known
    start, stop = np.searchsorted(values, value, side="left"), np.searchsorted(values, value, side="right")
    return [int(place) for place in order[start:stop]]
