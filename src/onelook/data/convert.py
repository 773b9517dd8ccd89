"""Data sets from one format to another: everything the target can hold, and a list of what it cannot."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from onelook.data.dataset import Dataset, open_dataset, splits
from onelook.data.formats.base import FORMATS, WHOLE
from onelook.data.progress import shown
from onelook.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
To = Literal["coco", "yolo", "voc"]


@dataclass(frozen=True)
class Place:
    """Where an image of the result goes: `folder/name`. The target's writer names its annotations after it."""

    folder: str
    name: str


@dataclass
class Losses:
    """What the target cannot hold: how many of each kind."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, count: int = 1) -> None:
        """Notes that something was left out or changed."""
        if count:
            self.counts[what] += count


class Writer(Protocol):
    """Writes one format into an empty folder."""

    def place(self, split: str, name: str) -> Place: ...

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Place], losses: Losses) -> None: ...

    def finish(self, out: Path, names: Sequence[str]) -> None: ...


@dataclass(frozen=True)
class Conversion:
    """What was written. lost: what the target format cannot hold, and how often it occurred."""

    source: str
    out: str
    format: str
    splits: dict[str, dict[str, int]]
    lost: dict[str, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "source": self.source,
            "out": self.out,
            "format": self.format,
            "splits": self.splits,
            "lost": self.lost,
            "notes": list(self.notes),
        }

    def show(self, console: Console) -> None:
        """A line a split, then what was lost."""
        from rich.markup import escape

        console.print(f"{FORMATS[self.format]} data set in [bold]{escape(self.out)}[/], from {escape(self.source)}")
        for split, counts in self.splits.items():
            console.print(escape(f"  {split}: {counts['images']} images, {counts['boxes']} boxes"))
        for what, count in self.lost.items():
            console.print(f"[yellow]{FORMATS[self.format]} cannot hold[/] {escape(what)}: {count}")
        for note in self.notes:
            console.print(escape(f"note: {note}"))


def convert(data: str | Path, *, to: To, out: str | Path, copy: bool = False) -> Conversion:
    """Writes all splits of a data set in another format.

    copy: copy the images; otherwise they are hard links to the originals (copies across file systems).

    The result appears under `out` whole or not at all. Raises `DataError` where `out` exists and is not empty, for a
    data set that cannot be opened, and for images that are missing.
    """
    from onelook.data.formats.convert_coco import CocoWriter
    from onelook.data.formats.convert_voc import VocWriter
    from onelook.data.formats.convert_yolo import YoloWriter

    target = Path(out).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"'{out}' exists and is not empty.", "Name a new folder; nothing is overwritten.")
    opened = _open_all(data)
    writers: dict[To, Callable[[], Writer]] = {"coco": CocoWriter, "yolo": YoloWriter, "voc": VocWriter}
    writer = writers[to]()
    losses, notes = Losses(), dict.fromkeys(note for dataset in opened.values() for note in dataset.notes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        taken: dict[str, tuple[Dataset, int]] = {}
        linked = not copy
        for split, dataset in opened.items():
            places, renamed = _places(writer, split, dataset, taken, stems=to != "coco")
            with shown(f"Writing {split}") as progress:
                for i, place in enumerate(places):
                    linked = _put(dataset.path(i), work / place.folder / place.name, linked)
                    progress(i, len(places))
            writer.write(work, split, dataset, places, losses)
            if renamed:
                notes[f"{renamed} images of '{split}' have a new name, because two shared one"] = None
        writer.finish(work, next(iter(opened.values())).names)
        os.chmod(work, 0o755)
        if target.exists():
            target.rmdir()
        os.replace(work, target)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _unwritable(out, error) from error
        raise
    if WHOLE in opened:
        notes["the data set has no splits, so all of it is written as 'train'"] = None
    if not copy:
        notes["the images are hard links to the originals" if linked else "the images were copied"] = None
    counts = {s: {"images": len(d), "boxes": int(d.num_objects.sum())} for s, d in opened.items()}
    return Conversion(str(data), str(target), to, counts, dict(losses.counts), tuple(notes))


def _unwritable(out: str | Path, error: OSError) -> DataError:
    remedy = "Give --out a folder that you can write to, with room for the images."
    return DataError(f"'{out}' cannot be written: {error.strerror or error}.", remedy)


def _open_all(data: str | Path) -> dict[str, Dataset]:
    """All splits, with one list of classes; a union of others (`trainval`) keeps its name."""
    opened: dict[str, Dataset] = {}
    names: tuple[str, ...] = ()
    for split in splits(data):
        opened[split] = open_dataset(data, split)
        names += tuple(name for name in opened[split].names if name not in names)
    return {split: dataset.with_names(names) for split, dataset in opened.items()}


def _places(
    writer: Writer, split: str, dataset: Dataset, taken: dict[str, tuple[Dataset, int]], *, stems: bool
) -> tuple[list[Place], int]:
    """Where each image goes, and how many had to be renamed.

    Names are kept, with their subfolders, less the folders that only speak of the layout. stems: whether names that
    differ in their ending only would share one annotation file.
    """
    places, renamed = [], 0
    for i in range(len(dataset)):
        name = _short_name(dataset.file_name(i), split)
        stem, ending = os.path.splitext(name)
        number = 1
        while True:
            place = writer.place(split, name)
            key = f"{place.folder}/{os.path.splitext(place.name)[0] if stems else place.name}".lower()
            if _is_same(*taken.setdefault(key, (dataset, i)), dataset, i):
                break
            number += 1
            name = f"{stem}-{number}{ending}"
        renamed += number > 1
        places.append(place)
    return places, renamed


def _is_same(dataset: Dataset, i: int, other: Dataset, j: int) -> bool:
    """Whether two entries are one image with the same annotations, as `train` and `trainval` share them."""
    if dataset is other:
        return i == j
    same = np.array_equal(dataset.boxes(i), other.boxes(j)) and np.array_equal(dataset.labels(i), other.labels(j))
    if not same or dataset.labelled[i] != other.labelled[j]:
        return False
    try:
        return filecmp.cmp(dataset.path(i), other.path(j), shallow=False)
    except OSError:
        return dataset.path(i) == other.path(j)


def _short_name(name: str, split: str) -> str:
    """`images/train/a/b.jpg` is `a/b.jpg` of the split train."""
    if os.path.isabs(name):
        return os.path.basename(name)
    parts = name.split("/")
    layout = {"images", "JPEGImages", split, f"{split}2017"} | ({"valid"} if split == "val" else set())
    while len(parts) > 1 and parts[0] in layout:
        parts.pop(0)
    return "/".join(parts)


def _put(source: Path, target: Path, link: bool) -> bool:
    """Links or copies an image; False where a link was wanted and could not be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # the same image in two splits of a format that keeps all images in one folder
        return link
    if not source.is_file():
        raise DataError(f"The image '{source}' does not exist.", "`onelook check` lists all that are missing.")
    if link:
        try:
            os.link(os.path.realpath(source), target)
            return True
        except OSError:
            pass
    shutil.copyfile(source, target)
    return False


def named(split: str) -> str:
    """The split's name in a result: an undivided data set becomes `train`."""
    return "train" if split == WHOLE else split


def num_mask_areas(dataset: Dataset) -> int:
    """How many objects have an area of their own, not width times height."""
    boxes = dataset.index.boxes
    return int((np.abs(boxes[:, 2] * boxes[:, 3] - dataset.index.areas) > 1e-6 * dataset.index.areas).sum())
