"""Everything that is wrong with a data set, by file and line or annotation id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onelook.data.check_boxes import check_boxes
from onelook.data.check_images import check_images
from onelook.data.formats.base import FORMATS, Source, find_source
from onelook.data.formats.voc_layout import annotation_folder, ids_of
from onelook.data.formats.yolo_labels import label_path, list_images
from onelook.data.index import CROWD, DIFFICULT, LABELLED, Index, index_in_memory
from onelook.data.paths import images_below, walk_files
from onelook.data.problems import Problem, Problems
from onelook.data.progress import shown
from onelook.data.readers import build_split, coco_annotations, image_root
from onelook.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

IMBALANCE = 100
SHOWN_OF_A_CODE = 5
_REMEDY = "Correct the file, or export the annotations again."


@dataclass(frozen=True, eq=False)
class ReadSplit:
    """One split as it was read: its index, where its images are, and the lines that images and objects came from."""

    source: Source
    split: str
    index: Index
    root: Path
    image_lines: np.ndarray
    object_lines: np.ndarray

    @property
    def names(self) -> list[str]:
        """Class names."""
        return self.index.meta["names"]

    def image_path(self, row: int) -> str:
        """Where the image of a row is."""
        return str(self.root / self.index.name(row))

    def annotation_file(self, row: int) -> str:
        """The file that annotates the image of a row."""
        if self.source.format == "yolo":
            return label_path(self.image_path(row))
        if self.source.format == "voc":
            stem = Path(self.index.name(row)).with_suffix(".xml")
            return str(annotation_folder(self.source, self.split) / stem)
        return str(coco_annotations(self.source.parts[self.split]))

    def place(self, row: int, thing: int) -> dict[str, Any]:
        """File, line and annotation of object `thing` of image `row`, for a `Problem`."""
        line = int(self.object_lines[thing])
        annotation = int(self.index.annotation_ids[thing]) if self.source.format == "coco" else None
        return {"file": self.annotation_file(row), "line": line or None, "annotation": annotation}


@dataclass(frozen=True)
class CheckResult:
    """What was found. summary: what the data set is, counts by split, errors, warnings and counts by code."""

    summary: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where errors were found."""
        return int(self.summary["errors"] > 0)

    def to_dict(self) -> dict[str, Any]:
        """What `check --json` writes."""
        return {"summary": self.summary, "problems": [problem.to_dict() for problem in self.problems]}

    def show(self, console: Console) -> None:
        """A table of the splits, then the problems, of each kind the first few."""
        from rich.markup import escape
        from rich.table import Table

        console.print(f"{self.summary['format']} data set [bold]{escape(self.summary['data'])}[/]")
        table = Table("split", box=None, pad_edge=False, header_style="bold")
        for name in next(iter(self.summary["splits"].values()), {}):
            table.add_column(name, justify="right")
        for split, counts in self.summary["splits"].items():
            table.add_row(escape(split), *(str(count) for count in counts.values()))
        console.print(table)
        for note in self.summary["notes"]:
            console.print(escape(f"note: {note}"))
        seen: Counter[tuple[str, str]] = Counter()
        for problem in sorted(self.problems, key=lambda problem: (problem.severity, problem.code)):
            key = (problem.severity, problem.code)
            seen[key] += 1
            if seen[key] <= SHOWN_OF_A_CODE:
                colour = "red" if problem.severity == "error" else "yellow"
                text = escape(f"{problem.place}: {problem.message} {problem.remedy}")
                console.print(f"[{colour}]{problem.severity}[/] {escape(f'[{problem.code}]')} {text}", soft_wrap=True)
            elif seen[key] == SHOWN_OF_A_CODE + 1:
                more = self.summary["codes"][problem.code] - SHOWN_OF_A_CODE
                console.print(f"  ... and {more} more of this kind (--json has them)", soft_wrap=True)
        counts = ((self.summary["errors"], "error"), (self.summary["warnings"], "warning"))
        console.print(", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts))


def check(data: str | Path, *, quick: bool = False) -> CheckResult:
    """Reads all splits of a data set and reports every problem.

    quick: judge images by their headers, instead of decoding them and comparing their contents.

    Raises `DataError` only where there is no data set at all. Of one kind of problem, at most 10,000 are listed; the
    counts in the summary are complete.
    """
    source = find_source(data)
    problems = Problems(strict=False)
    read = [part for split in source.parts if (part := _read(source, split, problems)) is not None]
    for part in read:
        check_boxes(part, problems)
        _check_classes(part, problems)
    _compare_classes(read, problems)
    check_images(read, problems, quick=quick)
    _check_spare_files(source, read, problems)
    counts: Counter[str] = Counter()
    for (_, code), count in problems.counts.items():
        counts[code] += count
    by_severity = {s: sum(n for (kind, _), n in problems.counts.items() if kind == s) for s in ("error", "warning")}
    summary = {
        "data": str(data),
        "format": FORMATS[source.format],
        "classes": read[0].names if read else [],
        "splits": {part.split: _counts(part) for part in read},
        "errors": by_severity["error"],
        "warnings": by_severity["warning"],
        "codes": dict(sorted(counts.items())),
        "notes": list(dict.fromkeys([*source.notes, *(n for part in read for n in part.index.meta.get("notes", ()))])),
    }
    return CheckResult(summary, problems.found)


def _read(source: Source, split: str, problems: Problems) -> ReadSplit | None:
    try:
        with shown(f"Reading {split}") as progress:
            arrays, meta = build_split(source, split, problems, progress)
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
        root = image_root(source, split, index)
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
    counts = np.bincount(index.labels, minlength=len(names))
    for label in np.flatnonzero(counts == 0).tolist():
        message = f"The class '{names[label]}' has no boxes in the split '{part.split}'."
        problems.warning("class-without-boxes", message, "Add examples, or remove the class.", **place)
    some = counts[counts > 0]
    if part.split in ("train", "trainval", "all") and some.max() > IMBALANCE * some.min():
        most, least = names[int(counts.argmax())], names[int(np.where(counts > 0, counts, counts.max() + 1).argmin())]
        message = f"'{most}' has {some.max()} boxes in the split '{part.split}', '{least}' only {some.min()}."
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


def _check_spare_files(source: Source, read: list[ReadSplit], problems: Problems) -> None:
    """Labels without images, annotations that no split lists, images that no annotation names."""
    if source.format == "yolo":
        for path in _spare_labels(source):
            message = "No image belongs to this label file."
            problems.warning("label-without-image", message, "Add the image, or delete the file.", file=path)
    elif source.format == "voc" and any(part.annotations for part in source.parts.values()):
        listed = {image for split in source.parts for image in ids_of(source, split)}
        folder = source.root / "Annotations"
        for file in sorted(folder.rglob("*.xml")):
            if file.relative_to(folder).with_suffix("").as_posix() not in listed and not file.name.startswith("."):
                message = "No list in 'ImageSets/Main' names this annotation, so it is not used."
                problems.warning("annotation-not-listed", message, "Add it to a list, or delete it.", file=str(file))
    elif source.format == "coco":
        named: dict[Path, set[str]] = {}
        for part in read:
            named.setdefault(part.root, set()).update(map(part.index.name, range(len(part.index))))
        for folder, names in named.items():
            for name in images_below(folder) if folder != source.root else ():
                if name not in names:
                    message = "No annotation file names this image, so it is not used."
                    place = {"file": f"{folder}/{name}"}
                    problems.warning("image-not-listed", message, "Annotate it, or delete it.", **place)


def _spare_labels(source: Source) -> Iterator[str]:
    folders, expected = set(), set()
    for part in source.parts.values():
        try:
            listed = list_images(part, source.root)
        except DataError:
            continue
        for _, path in listed:
            label = label_path(path)
            expected.add(label)
            if "/labels/" in label:
                folders.add(label.rpartition("/")[0])
    for folder in sorted(folders):
        if not Path(folder).is_dir() or any(folder.startswith(f"{other}/") for other in folders):
            continue
        for entry in walk_files(Path(folder)):
            if entry.name.endswith(".txt") and entry.name != "classes.txt" and entry.path not in expected:
                yield entry.path
