"""Lists the problems of a data set, by file and line or annotation id."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.check_boxes import check_boxes
from onelook.data.check_images import check_images
from onelook.data.find import find_source
from onelook.data.formats.base import ReadSplit, Source
from onelook.data.index import CROWD, DIFFICULT, LABELLED, index_in_memory
from onelook.data.problems import Problem, Problems
from onelook.data.statistics import statistics
from onelook.errors import DataError
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr

IMBALANCE = 100
_REMEDY = "Correct the file, or export the annotations again."


@dataclass(frozen=True)
class CheckReport:
    """The problems of a data set.

    summary: its format, counts by split, number of errors and warnings, and counts by kind of problem.
    problems: each with severity, kind, file, line or annotation id, message and remedy.
    """

    summary: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where errors were found."""
        return int(self.summary["errors"] > 0)

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = ((self.summary["errors"], "error"), (self.summary["warnings"], "warning"))
        found = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
        return f"{self.summary['format']} data set '{self.summary['data']}': {found}"

    def to_dict(self) -> dict[str, Any]:
        """Summary and problems, in the layout of `check --json`."""
        return {"summary": self.summary, "problems": [problem.to_dict() for problem in self.problems]}


def check(data: str | Path, *, quick: bool = False, reporter: Reporter | None = None) -> CheckReport:
    """Reads all splits of a data set and lists every problem.

    quick: judge images by their headers, instead of decoding them and comparing their contents.  reporter: shows the
    progress; None prints plain lines on standard error.

    Raises `DataError` only where there is no data set at all. Of one kind of problem, at most 10,000 are listed; the
    counts in the summary are complete.
    """
    return read_and_check(data, quick=quick, reporter=reporter)[0]


def read_and_check(
    data: str | Path, *, quick: bool = False, reporter: Reporter | None = None
) -> tuple[CheckReport, list[ReadSplit]]:
    """The report of `check`, and the splits as they were read: all of them without what is unreadable."""
    reporter = PlainReporter() if reporter is None else reporter
    source = find_source(data)
    problems = Problems(strict=False)
    read = [part for split in source.parts if (part := _read(source, split, problems, reporter)) is not None]
    for part in read:
        check_boxes(part, problems)
        _check_classes(part, problems)
    _compare_classes(read, problems)
    check_images(read, problems, reporter, quick=quick)
    source.format.check(source, read, problems)
    counts: Counter[str] = Counter()
    for (_, code), count in problems.counts.items():
        counts[code] += count
    by_severity = {s: sum(n for (kind, _), n in problems.counts.items() if kind == s) for s in ("error", "warning")}
    summary = {
        "data": str(data),
        "format": source.format.title,
        "classes": read[0].names if read else [],
        "splits": {part.split: _counts(part) for part in read},
        "statistics": {part.split: statistics(part.index, part.names).summary() for part in read},
        "errors": by_severity["error"],
        "warnings": by_severity["warning"],
        "codes": dict(sorted(counts.items())),
        "notes": list(dict.fromkeys([*source.notes, *(n for part in read for n in part.index.meta.get("notes", ()))])),
    }
    return CheckReport(summary, problems.found), read


def _read(source: Source, split: str, problems: Problems, reporter: Reporter) -> ReadSplit | None:
    try:
        with reporter.progress(f"Reading {split}") as progress:
            arrays, meta = source.format.read(source, split, problems, progress)
        index = index_in_memory(arrays, meta)
        lines = arrays["image_lines"], arrays["object_lines"]
    except DataError as error:
        found = re.match(r"'?(.+?)'?:(\d+): (.*)", error.message, re.DOTALL)
        part = source.parts[split]
        place: dict[str, Any] = {"file": str(part.annotations or (part.images or (source.described_by,))[0])}
        if found:
            place = {"file": found[1], "line": int(found[2])}
        problems.error("unreadable", found[3] if found else error.message, error.remedy or _REMEDY, **place)
        return None
    try:
        root = source.format.image_root(source, split, index)
    except DataError as error:
        problems.error("images-not-found", error.message, error.remedy, file=str(source.parts[split].annotations))
        root = source.root
    return ReadSplit(source, split, index, root, *lines)


def _counts(part: ReadSplit) -> dict[str, int]:
    index = part.index
    per_image = np.diff(index.object_offsets)
    return {
        "images": len(index),
        "boxes": len(index.labels),
        "classes": len(np.unique(index.labels)),
        "crowds": int(((index.object_flags & CROWD) > 0).sum()),
        "difficult": int(((index.object_flags & DIFFICULT) > 0).sum()),
        "without boxes": int((per_image == 0).sum()),
        "without labels": int(((index.image_flags & LABELLED) == 0).sum()),
    }


def _check_classes(part: ReadSplit, problems: Problems) -> None:
    index, names = part.index, part.names
    place = {"file": str(part.source.parts[part.split].annotations or part.source.described_by)}
    if not len(index):
        problems.error("no-images", f"The split '{part.split}' has no images.", "Add images.", **place)
        return
    if not len(index.labels):
        message = f"The split '{part.split}' has no boxes at all."
        problems.error("no-boxes", message, "Check that labels lie where the layout expects them.", **place)
        return
    learnt = (index.object_flags & CROWD) == 0
    if not learnt.any():
        message = f"Every object of the split '{part.split}' is a crowd (iscrowd 1): there is nothing to learn or find."
        problems.error("only-crowds", message, "Set iscrowd to 0 where the box is around one object.", **place)
        return
    counts = np.bincount(index.labels, minlength=len(names))
    for label in np.flatnonzero(counts == 0).tolist():
        message = f"The class '{names[label]}' has no boxes in the split '{part.split}'."
        problems.warning("class-without-boxes", message, "Add examples, or remove the class.", **place)
    is_trained_on = part.split in ("train", "trainval", "all")
    apart = counts - np.bincount(index.labels[~learnt], minlength=len(names))
    for label in np.flatnonzero((apart == 0) & (counts > 0)).tolist() if is_trained_on else ():
        message = f"The class '{names[label]}' has only crowds in the split '{part.split}', so it cannot be learnt."
        problems.warning("class-only-crowds", message, "Set iscrowd to 0 where a box is around one object.", **place)
    some = counts[counts > 0]
    if is_trained_on and np.max(some) > IMBALANCE * np.min(some):
        most, least = (
            names[int(np.argmax(counts))],
            names[int(np.argmin(np.where(counts > 0, counts, np.max(counts) + 1)))],
        )
        message = f"'{most}' has {np.max(some)} boxes in the split '{part.split}', '{least}' only {np.min(some)}."
        problems.warning(
            "class-imbalance", message, "Add examples of rare classes, or sample them more often.", **place
        )
    for row in np.flatnonzero((index.image_flags & LABELLED) == 0).tolist():
        message = f"'{part.image_path(row)}' has no labels, so it counts as background."
        remedy = "Label it; or, if it shows no object, add an empty label file."
        problems.warning("image-without-labels", message, remedy, file=part.annotation_file(row))


def _compare_classes(read: list[ReadSplit], problems: Problems) -> None:
    for part in read[1:]:
        first = read[0]
        if part.names == first.names:
            continue
        place = {"file": str(part.source.parts[part.split].annotations or part.source.described_by)}
        lists = f"'{first.split}' has {first.names[:50]}, '{part.split}' has {part.names[:50]}"
        extra = sorted(set(part.names) - set(first.names))
        if extra:
            message = f"The splits do not have the same classes: {lists}. Only in '{part.split}': {extra[:50]}."
            problems.error("class-lists-differ", message, "Give all splits one list of classes.", **place)
        else:
            message = f"The splits list their classes differently: {lists}. They are matched by name."
            problems.warning("class-order-differs", message, "Give all splits one list of classes.", **place)
