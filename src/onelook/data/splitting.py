"""Divides a data set into splits: writes lists of its images, or another data set of links to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.cache import FOLDER
from onelook.data.convert import WritableFormat, check_free, convert
from onelook.data.dataset import open_dataset
from onelook.data.divide import Division, check_fractions, divide
from onelook.data.edit_file import write_edit_file
from onelook.data.find import find_source
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE
from onelook.errors import UsageError
from onelook.files import free_folder, new_folder, write_text
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr

EDIT_FILE = "data.yaml"


@dataclass(frozen=True)
class SplitResult:
    """A data set that was divided.

    source: what was divided.  out: the folder that was written.  splits: `images` and `boxes` of each split.
    classes: boxes of each class by split.  groups: how many images are near-duplicates of others, frames of sequences,
    or augmented copies, and stay with those on one side.  notes: what else there is to know.
    """

    source: str
    out: str
    splits: dict[str, dict[str, int]]
    classes: dict[str, dict[str, int]]
    groups: dict[str, int]
    notes: tuple[str, ...]

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = (f"{split} {one['images']} images, {one['boxes']} boxes" for split, one in self.splits.items())
        return f"'{self.source}' divided in '{self.out}': {'; '.join(counts)}"

    def to_dict(self) -> dict[str, Any]:
        """The fields, in the layout of `split --json`."""
        return {**asdict(self), "notes": list(self.notes)}


def split(
    data: str | Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    anew: bool = False,
    out: str | Path | None = None,
    to: WritableFormat | None = None,
    copy: bool = False,
    reporter: Reporter | None = None,
) -> SplitResult:
    """Divides the images that are trained on among train, val and test (see `onelook.data.divide`).

    val, test: shares of the images; 0 makes no such split.  anew: divide all images, although the data set is divided
    already.  out: new folder; None is `NAME-split` in the working folder.  to: the format of a data set to write there,
    of hard links to the images; None writes lists of images and `data.yaml`, which names them.  copy: with `to`, copy
    the images.  reporter: shows the progress; None prints plain lines on standard error.

    Raises `UsageError` where the data set has these splits already, and `DataError` for what cannot be read.
    """
    reporter = PlainReporter() if reporter is None else reporter
    fractions = {name: share for name, share in (("val", val), ("test", test)) if share}
    if not fractions:
        raise UsageError("There is nothing to divide: val and test are 0.", "Give a fraction: --val 0.2.")
    check_fractions(fractions)
    if copy and to is None:
        raise UsageError("Lists copy nothing: copy needs a format to write.", "Give one as well: --to yolo --copy.")
    place = os.path.abspath(Path(data).expanduser())
    target = Path(out).expanduser().absolute() if out is not None else free_folder(Path(f"{Path(place).stem}-split"))
    check_free(target, str(out or target))
    with tempfile.TemporaryDirectory(prefix="onelook-") as folder:
        (Path(folder) / FOLDER).mkdir()  # for the index; one that is made on opening is announced, and this one goes
        dataset, others, left_out = _undivided(place, fractions, Path(folder), anew=anew, reporter=reporter)
        division = divide(dataset, fractions, seed, reporter)
        parts = {name: dataset.view(rows) for name, rows in division.rows.items()} | others
        notes = [*division.notes, *_achieved(division, fractions), *_uneven_boxes(parts, fractions)]
        if left_out:
            listed = ", ".join(f"'{name}'" for name in left_out)
            notes.append(f"left out, as it is neither train, val nor test: {listed}; to divide all images: --anew")
        if to is None:
            with new_folder(target) as work:
                write_lists(work, target.absolute(), place, parts)
            notes.append(f"the images stay where they are: '{target}' holds lists; train on this folder")
        else:
            write_lists(Path(folder) / "lists", Path(folder) / "lists", place, parts)
            written = convert(Path(folder) / "lists" / EDIT_FILE, to=to, out=target, copy=copy, reporter=reporter)
            notes += [note for note in written.notes if note not in dataset.notes]
            notes += [f"{written.format_title} cannot hold {what}: {count}" for what, count in written.lost.items()]
    counts = {name: {"images": len(part), "boxes": int(part.num_objects.sum())} for name, part in parts.items()}
    return SplitResult(str(data), str(target), counts, class_counts(parts), dict(division.groups), tuple(notes))


def _undivided(
    place: str, fractions: Mapping[str, float], folder: Path, *, anew: bool, reporter: Reporter
) -> tuple[Dataset, dict[str, Dataset], list[str]]:
    """(what is divided, the splits that stay as they are, the names of those that are not in the result)."""
    there = tuple(find_source(place).parts)
    if not anew and len(there) > 1:
        made = [name for name in fractions if name in there]
        if made or "train" not in there:
            raise UsageError(
                f"'{place}' is divided already: it has {', '.join(there)}.",
                "To divide all of its images again: --anew. To train on it as it is: onelook train.",
            )
        others = {name: open_dataset(place, name, reporter=reporter) for name in there if name in ("val", "test")}
        left_out = [name for name in there if name != "train" and name not in others]
        return open_dataset(place, "train", reporter=reporter), others, left_out
    opened = [open_dataset(place, name, reporter=reporter) for name in there]
    if len(opened) == 1:
        return opened[0], {}, []
    paths = dict.fromkeys(os.path.abspath(part.path(row)) for part in opened for row in range(len(part)))
    write_text(folder / "all.txt", "".join(f"{path}\n" for path in paths), durable=False)
    write_edit_file(folder / "all.yaml", [place], lists={WHOLE: "all.txt"})
    return open_dataset(folder / "all.yaml", WHOLE, reporter=reporter), {}, []


def write_lists(folder: Path, final: Path, data: str, parts: Mapping[str, Dataset]) -> None:
    """Writes one list of images for each split, and the YAML file that names them and the data set.

    final: where the folder will be: paths are relative to it.  data: absolute path of the data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        paths = [relative(os.path.abspath(part.path(row)), final) for row in range(len(part))]
        write_text(folder / f"{name}.txt", "".join(f"{path}\n" for path in paths))
    write_edit_file(folder / EDIT_FILE, [relative(data, final)], lists={name: f"{name}.txt" for name in parts})


def relative(path: str, start: Path) -> str:
    """A path relative to a folder, with forward slashes; absolute where it is on another drive."""
    try:
        return os.path.relpath(path, start).replace(os.sep, "/")
    except ValueError:
        return path


def class_counts(parts: Mapping[str, Dataset]) -> dict[str, dict[str, int]]:
    """By class, the number of boxes in each split."""
    names = list(dict.fromkeys(name for part in parts.values() for name in part.names))
    counts = {name: dict.fromkeys(parts, 0) for name in names}
    for split_name, part in parts.items():
        labels = np.concatenate([np.zeros(0, np.int64), *(part.labels(row) for row in range(len(part)))])
        for label, count in enumerate(np.bincount(labels, minlength=len(part.names)).tolist()):
            counts[part.names[label]][split_name] += count
    return counts


def _achieved(division: Division, fractions: Mapping[str, float]) -> Sequence[str]:
    """A note on each split that has a third more or less than it should."""
    total = sum(len(rows) for rows in division.rows.values())
    notes = []
    for name, share in fractions.items():
        got = len(division.rows[name]) / total
        if not 2 / 3 <= got / share <= 4 / 3:
            notes.append(f"'{name}' has {100 * got:.0f} % of the images, not {100 * share:g} %: groups stay together")
    return notes


def _uneven_boxes(parts: Mapping[str, Dataset], fractions: Mapping[str, float]) -> Sequence[str]:
    """A note on each split that has less than half or more than twice its share of the boxes."""
    boxes = {name: int(parts[name].num_objects.sum()) for name in ("train", *fractions)}
    total = sum(boxes.values())
    notes = []
    for name, share in fractions.items():
        if total and not 1 / 2 <= boxes[name] / total / share <= 2:
            notes.append(
                f"'{name}' has {100 * boxes[name] / total:.0f} % of the boxes, not {100 * share:g} %: images differ "
                "in their number of objects; another --seed may divide them more evenly"
            )
    return notes
