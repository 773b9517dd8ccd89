"""Writes a data set with other classes, joined from several, or without its faulty entries: as a YAML file or whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onelook.data.cache import FOLDER
from onelook.data.class_edits import ClassEdits, check_merges
from onelook.data.convert import WritableFormat, check_free, convert
from onelook.data.dataset import open_dataset
from onelook.data.edit_file import write_edit_file
from onelook.data.find import find_source
from onelook.data.problems import Problem
from onelook.data.split import Dataset
from onelook.data.splitting import class_counts, relative
from onelook.errors import DataError, UsageError
from onelook.files import write_text
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr

_LEFT_OUT = ".left-out.txt"


@dataclass(frozen=True)
class EditResult:
    """A data set that was edited.

    sources: what it was made from.  out: the YAML file or the folder that was written.  splits: `images` and `boxes` of
    each split.  classes: boxes of each class by split.  left_out: the problems of the entries and images that were left
    out.  left_out_file: the file that lists them, None where there are none.  notes: what else there is to know.
    """

    sources: tuple[str, ...]
    out: str
    splits: dict[str, dict[str, int]]
    classes: dict[str, dict[str, int]]
    left_out: tuple[Problem, ...]
    left_out_file: str | None
    notes: tuple[str, ...]

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = (f"{split} {one['images']} images, {one['boxes']} boxes" for split, one in self.splits.items())
        left_out = f"; {len(self.left_out)} faulty entries left out" if self.left_out else ""
        return f"'{self.out}': {'; '.join(counts)}; {len(self.classes)} classes{left_out}"

    def to_dict(self) -> dict[str, Any]:
        """The fields, in the layout of `edit --json`."""
        return {**asdict(self), "sources": list(self.sources), "notes": list(self.notes)} | {
            "left_out": [problem.to_dict() for problem in self.left_out]
        }


def edit(
    data: Sequence[str | Path],
    *,
    out: str | Path,
    rename: Mapping[str, str] | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    drop: Sequence[str] = (),
    only: Sequence[str] = (),
    skip_bad: bool = False,
    to: WritableFormat | None = None,
    copy: bool = False,
    reporter: Reporter | None = None,
) -> EditResult:
    """Joins data sets, and changes their classes (see `onelook.data.class_edits`).

    out: a new YAML file, which is opened like a data set; with `to`, a new folder for a data set of that format, of
    hard links to the images.  skip_bad: leave out faulty entries and images that cannot be used.  copy: with `to`, copy
    the images.  reporter: shows the progress; None prints plain lines on standard error.

    Everything is read before anything is written. Raises `DataError` for what cannot be read, and `UsageError` for
    arguments that contradict each other.
    """
    reporter = PlainReporter() if reporter is None else reporter
    target = Path(out).expanduser().absolute()
    _check_out(target, str(out), to, copy)
    merges = {new: tuple(names) for new, names in (merge or {}).items()}
    check_merges(merges, "the changes")
    classes = ClassEdits(dict(rename or {}), merges, tuple(drop), tuple(only))
    places = [os.path.abspath(Path(one).expanduser()) for one in data]
    if not places:
        raise UsageError("There is no data set to edit.", "Name one or more.")
    for place in places:
        find_source(place)  # so that messages name what the user named
    with tempfile.TemporaryDirectory(prefix="onelook-") as folder:
        (Path(folder) / FOLDER).mkdir()  # for the index; one that is made on opening is announced, and this one goes
        draft = Path(folder) / "edit.yaml"
        write_edit_file(draft, places, classes, skip_bad=skip_bad)
        opened = _open(draft, "the changes", reporter)
        notes = list(dict.fromkeys(note for part in opened.values() for note in part.notes))
        if to is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            sources = [relative(place, target.parent) for place in places]
            write_edit_file(target, sources, classes, skip_bad=skip_bad)
        else:
            written = convert(draft, to=to, out=target, copy=copy, reporter=reporter)
            notes += [f"{written.format_title} cannot hold {what}: {count}" for what, count in written.lost.items()]
            notes += [note for note in written.notes if note not in notes]
    left_out = _left_out(opened)
    list_file = None
    if left_out:
        list_file = target.with_name(target.stem + _LEFT_OUT) if to is None else target / f"edit{_LEFT_OUT}"
        write_text(list_file, "".join(f"{one.place}: {one.message}\n" for one in left_out))
    counts = {name: {"images": len(part), "boxes": int(part.num_objects.sum())} for name, part in opened.items()}
    return EditResult(
        sources=tuple(str(one) for one in data),
        out=str(target),
        splits=counts,
        classes=class_counts(opened),
        left_out=left_out,
        left_out_file=None if list_file is None else str(list_file),
        notes=tuple(note for note in notes if "skip_bad" not in note),
    )


def _check_out(target: Path, name: str, to: WritableFormat | None, copy: bool) -> None:
    is_yaml = target.suffix.lower() in (".yaml", ".yml")
    if to is None and not is_yaml:
        remedy = f"Name a YAML file, such as '{name.rstrip('/')}.yaml'; or give the format of a folder: --to coco."
        raise UsageError(f"'{name}' is not the name of a YAML file.", remedy)
    if to is None and copy:
        raise UsageError("A YAML file copies nothing: copy needs a format to write.", "Give one as well: --to coco.")
    if to is None and target.exists():
        raise DataError(f"'{name}' exists.", "Name a new file; nothing is overwritten.")
    if to is not None:
        check_free(target, name)


def _open(draft: Path, shown: str, reporter: Reporter) -> dict[str, Dataset]:
    """All splits of the edited data set. Messages name the file of the user's, not the temporary one: `shown`."""
    try:
        return {name: open_dataset(draft, name, reporter=reporter) for name in find_source(draft).parts}
    except DataError as error:
        raise DataError(error.message.replace(str(draft), shown), error.remedy) from error


def _left_out(opened: Mapping[str, Dataset]) -> tuple[Problem, ...]:
    found = (Problem(**one) for part in opened.values() for one in part.index.meta.get("left_out", ()))
    return tuple(dict.fromkeys(found))
