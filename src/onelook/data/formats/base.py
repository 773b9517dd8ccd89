"""What a format of data sets consists of. Each format is one value of `Format`, in a file of its own.

To add a format, write its file and add its value to the tuple in `formats/__init__.py`. Nothing else names a format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onelook.data.index import CROWD, DIFFICULT, Index
from onelook.data.members import ImageFile, image_file
from onelook.data.objects import has_outline
from onelook.data.problems import Problems
from onelook.data.remote import Url
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE, means_whole, split_word
from onelook.errors import DataError, did_you_mean
from onelook.reporter import Progress

FilesOf = Iterable[tuple[str, Any]]
"""(name that stays the same when the data set moves, path or directory entry) of files that a split is read from."""

Arrays = tuple[dict[str, np.ndarray], dict[str, Any]]
"""The arrays of an index (`onelook.data.building.lay_out`), and its meta: `names`, `category_ids`, `notes`."""


@dataclass(frozen=True)
class Part:
    """The files of one split.

    annotations: one file that describes the whole split, such as a COCO JSON file or a list of ids; None without.
    images: folders of images, or lists of them; what exactly, is the format's own business.
    shards: tar files that the images are in, paths or URLs; () where images are files of their own.
    """

    annotations: Path | None = None
    images: tuple[Path, ...] = ()
    shards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set: its format, and the files of each split.

    root: its folder.  described_by: what the user named: a folder, a file, or a URL or pattern of shards.  parts: by
    the name of the split.  names: the class names, None where only the annotations name them.  keypoint_values: how
    many numbers follow the box in a row of labels, 0 for outlines in place of boxes, None where it is not known.
    category_ids, category_extras: ids and further fields of `names`, where the files that describe the data set have
    them.  names_file: the file that lists the class names, where it is known.
    """

    format: Format
    root: Path
    described_by: Path | Url
    parts: Mapping[str, Part]
    names: tuple[str, ...] | None = None
    keypoint_values: int | None = None
    notes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] | None = None
    category_extras: tuple[Mapping[str, Any], ...] = ()
    names_file: Path | None = None

    def annotations_of(self, split: str) -> Path:
        """The annotation file of a split, in formats whose every split has one."""
        annotations = self.parts[split].annotations
        assert annotations is not None
        return annotations

    def resolve(self, split: str) -> str:
        """The key in `parts` for a split's name: `valid`, `val` and `val2017` are one, an undivided set is any.

        Raises `DataError` naming the splits that exist.
        """
        if split in self.parts:
            return split
        alike = [name for name in self.parts if split_word(name) == split_word(split) is not None]
        if len(alike) == 1:
            return alike[0]
        if tuple(self.parts) == (WHOLE,) and means_whole(split):
            return WHOLE
        known = ", ".join(f"'{name}'" for name in self.parts) or "none"
        raise DataError(
            f"The data set '{self.described_by}' ({self.format.title}) has no split '{split}'."
            f"{did_you_mean(split, self.parts)}",
            f"It has: {known}.",
        )

    def origin(self, split: str, index: Index, row: int) -> tuple[Source, str, str]:
        """The data set on the disk that an image is from, its split there, and the image's name there."""
        return self, split, index.name(row)


@dataclass(frozen=True, eq=False)
class ReadSplit:
    """One split as it was read for a check: its index, where its images are, and the lines its entries came from."""

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

    def image_file(self, row: int) -> ImageFile:
        """The image file of a row."""
        return image_file(self.index, row, self.root, self.source.parts[self.split].shards)

    def image_path(self, row: int) -> str:
        """Where the image of a row is, as text."""
        return str(self.image_file(row))

    def annotation_file(self, row: int) -> str:
        """The file that annotates the image of a row."""
        source, split, name = self.source.origin(self.split, self.index, row)
        return source.format.annotation_file(source, split, self.image_path(row), name)

    def place(self, row: int, thing: int) -> dict[str, Any]:
        """File, line and annotation of object `thing` of image `row`, for a `Problem`."""
        line = int(self.object_lines[thing])
        annotation = int(self.index.annotation_ids[thing]) if self.source.format.has_ids else None
        return {"file": self.annotation_file(row), "line": line or None, "annotation": annotation}


@dataclass(frozen=True)
class Destination:
    """Where an image of a conversion goes: `folder/name`. The writer names its annotations after it."""

    folder: str
    name: str


LEFT_OUT = "(left out)"  # the end of what `Losses` says of boxes that are not written


@dataclass
class Losses:
    """What a format cannot hold: how many of each kind."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, count: int = 1) -> None:
        """Notes that something was left out or changed."""
        if count:
            self.counts[what] += count

    def set(self, what: str, count: int) -> None:
        """Notes what concerns the whole data set: it is counted once, not once for each split."""
        self.counts[what] = max(count, self.counts[what])

    @property
    def boxes_left_out(self) -> int:
        """How many boxes were not written."""
        return sum(count for what, count in self.counts.items() if what.endswith(LEFT_OUT))


class Writer(Protocol):
    """Writes a data set of one format into an empty folder.

    one_file_an_image: whether each image has an annotation file with the stem of its name, so that two images of one
    folder may not differ in their ending only.
    """

    one_file_an_image: bool

    def destination(self, split: str, name: str) -> Destination:
        """Where an image goes."""
        ...

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the annotations of one split. places: of its images, in order."""
        ...

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes what all splits share."""
        ...


def unit_unknown(part: ReadSplit, known: np.ndarray) -> tuple[str, str]:
    """The hint on boxes in a wrong unit where a format has no typical mistake."""
    return "", "Check the unit of the boxes, and that each annotation belongs to its image."


def no_further_checks(source: Source, read: Sequence[ReadSplit], problems: Problems) -> None:
    """The check of a format without problems of its own."""


@dataclass(frozen=True)
class Format:
    """A format of data sets: how it is found, read, written and checked.

    name: one short word, as in `--to`.  title: as it is shown.  layout: the files that it is recognised by, as shown
    to a user whose data set was not recognised.

    find: the data set in a folder, None where it has another format; raises `DataError` for a damaged one.
    find_flat: the same for images and annotations side by side; asked where no format's `find` has found anything.
    find_file: the same for a file that describes a data set.
    find_pattern: the same for a URL, or a pattern of file names.
    files_of: every file that a split is read from, in a fixed order: one that changes makes the kept index stale.
    read: the arrays and the meta of a split's index; faults go to the `Problems`.
    image_root: the folder that the names of the images are relative to.
    annotation_file: (source, split, path of an image, its name) -> the file that annotates it.
    write: makes a `Writer`; None where the format cannot be written.  write_options: names of the arguments that it
    takes, of those that a conversion has.  stores_images: whether its `write` writes the images as well; otherwise they
    are put at their destinations before it.
    check: reports the problems that only this format has, such as labels without an image.
    wrong_unit: of a split where many boxes reach out of their images, and (M,) bool whether the image's size is known:
    what most boxes seem to be, and the remedy.

    has_boxes: False where an image has a class and no boxes.  has_ids: whether images, annotations and categories have
    ids of their own.  ignores_difficult: whether the format's evaluation leaves out what is marked difficult.
    in_pixels: whether boxes are written in pixels, not in fractions of the image.
    lists_images: whether `files_of` names every image.  rank: formats of rank 1 are looked for only where none of
    rank 0 is found, since they take more files to be told; rank 2 is for what many folders look like.
    """

    name: str
    title: str
    layout: str
    find: Callable[[Path], Source | None]
    files_of: Callable[[Source, str], FilesOf]
    read: Callable[[Source, str, Problems, Progress], Arrays]
    image_root: Callable[[Source, str, Index], Path]
    annotation_file: Callable[[Source, str, str, str], str]
    find_flat: Callable[[Path], Source | None] = lambda path: None
    find_file: Callable[[Path], Source | None] = lambda path: None
    find_pattern: Callable[[str], Source | None] = lambda text: None
    write: Callable[..., Writer] | None = None
    write_options: tuple[str, ...] = ()
    stores_images: bool = False
    check: Callable[[Source, Sequence[ReadSplit], Problems], None] = no_further_checks
    wrong_unit: Callable[[ReadSplit, np.ndarray], tuple[str, str]] = unit_unknown
    has_boxes: bool = True
    has_ids: bool = False
    ignores_difficult: bool = False
    in_pixels: bool = True
    lists_images: bool = False
    rank: int = 0


def split_folder(split: str) -> str:
    """The split's name in a written data set: an undivided one becomes `train`."""
    return "train" if split == WHOLE else split


SAME = 0.011  # pixels between a box and its outline's bounds: COCO rounds boxes to 0.01


def spans_box(ring: np.ndarray, box: Sequence[float] | np.ndarray) -> bool:
    """Whether an outline has at least three points, and its bounds are the box (left, top, width, height)."""
    start, stop = ring.min(axis=0), ring.max(axis=0)
    return len(ring) > 2 and bool(np.abs(np.concatenate([start, stop - start]) - np.asarray(box)).max() <= SAME)


UNLABELLED = "the difference between unlabelled images and images without objects"


def count_lost(dataset: Dataset, losses: Losses, *, crowds: bool = False, outlines: bool = False) -> None:
    """Counts what a format without ids, marks of difficult objects and areas of masks cannot hold.

    crowds, outlines: whether it cannot hold these either.
    """
    flags = dataset.index.object_flags
    losses.add("crowd marks (the boxes are kept, as objects)", int(((flags & CROWD) > 0).sum()) if crowds else 0)
    losses.add("difficult marks (boxes are kept)", int(((flags & DIFFICULT) > 0).sum()))
    losses.add("outlines (boxes are kept)", int(has_outline(dataset).sum()) if outlines else 0)
    losses.add("areas of masks", num_mask_areas(dataset))
    if dataset.has_ids:
        losses.add("image and annotation ids (images are numbered in the order of their names)", len(dataset))
        losses.set("category ids (classes are numbered from 0)", len(dataset.names))


def single_outline(dataset: Dataset, thing: int, losses: Losses) -> list[list[float]]:
    """The points x, y of an object's only outline, where its bounds are the box; [] for others, which are counted."""
    rings = dataset.index.rings(thing)
    if len(rings) == 1 and spans_box(rings[0], dataset.index.boxes[thing]):
        return rings[0].tolist()
    losses.add("outlines of several parts, or smaller than their boxes (boxes are kept)", int(bool(rings)))
    return []


def names_used(dataset: Dataset) -> set[str]:
    """The names of the classes that have objects."""
    return {dataset.names[label] for i in range(len(dataset)) for label in set(dataset.labels(i).tolist())}


def count_class_list(names: Sequence[str], used: Collection[str], losses: Losses) -> None:
    """Counts what a format loses that names classes with their objects only, and is read in alphabetical order."""
    losses.add("classes without objects", sum(name not in used for name in names))
    kept = [name for name in names if name in used]
    losses.add("the order of the classes (alphabetical then)", int(kept != sorted(kept)))


def num_mask_areas(dataset: Dataset) -> int:
    """How many objects have an area of their own, not width times height."""
    boxes = dataset.index.boxes
    return int((np.abs(boxes[:, 2] * boxes[:, 3] - dataset.index.areas) > 1e-6 * dataset.index.areas).sum())
