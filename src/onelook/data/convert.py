"""Converts data sets between formats, and lists what the target format cannot hold."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onelook.data import formats
from onelook.data.annotated_sizes import check_annotated_sizes
from onelook.data.byte_size import parse_bytes
from onelook.data.cutting import cut_to_images
from onelook.data.dataset import open_dataset, splits
from onelook.data.formats.base import Destination, Format, Losses, Writer
from onelook.data.headers import IMAGE_SUFFIXES, usual_ending
from onelook.data.members import MAX_FILE, ImageFile, Member, read_image_file
from onelook.data.paths import is_image
from onelook.data.split import Dataset
from onelook.data.split_names import WHOLE
from onelook.data.tiling import TileCounts, Tiling, cut_into_tiles
from onelook.errors import DataError, ImageError, UsageError, did_you_mean, reason_of
from onelook.files import new_folder
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr

WritableFormat = Literal[
    "shards",
    "label_studio",
    "coco",
    "voc",
    "yolo",
    "open_images",
    "cvat",
    "supervisely",
    "labelme",
    "csv",
    "parquet",
]
"""The formats that can be written, for type checkers and the command line; a test compares them with `FORMATS`."""

_TILES = ".tiles"  # a folder of the tiles, in the unfinished folder of the result
SMALLEST_SHARD = 10_000  # bytes: less is a number without its unit


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    source, out: the data set that was read, and the folder that was written.  format, format_title: of the written one,
    short ("coco") and as shown.  splits: `images` and `boxes` that were written, by split; an image of two splits
    (trainval) counts in both.  lost: what the target format cannot hold, and how often it occurred.  notes: what else
    there is to know.
    """

    source: str
    out: str
    format: str
    format_title: str
    splits: dict[str, dict[str, int]]
    lost: dict[str, int]
    notes: tuple[str, ...]

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = (f"{split} {one['images']} images, {one['boxes']} boxes" for split, one in self.splits.items())
        return f"{self.format_title} data set in '{self.out}', from '{self.source}': {'; '.join(counts)}"

    def to_dict(self) -> dict[str, Any]:
        """The fields, in the layout of `convert --json`."""
        return {
            "source": self.source,
            "out": self.out,
            "format": self.format,
            "splits": self.splits,
            "lost": self.lost,
            "notes": list(self.notes),
        }


def convert(
    data: str | Path,
    *,
    to: WritableFormat,
    out: str | Path,
    copy: bool = False,
    allow_size_mismatch: bool = False,
    shard_size: int | str | None = None,
    tiling: Tiling | None = None,
    reporter: Reporter | None = None,
) -> Conversion:
    """Writes all splits of a data set in another format.

    to: the name of the format.  copy: copy the images; otherwise they are hard links to the originals (copies across
    file systems).  reporter: shows the progress; None prints plain lines on standard error.

    allow_size_mismatch: go on although images do not have their annotated sizes, with the boxes as annotated.
    shard_size: bytes of a tar file ("500MB", or a number), where the format has them; None is its own choice.
    tiling: cut larger images into tiles; None leaves them whole.

    Boxes and outlines are cut to their images, as training uses them; what that changes counts as lost.
    The result appears under `out` whole or not at all. Raises `DataError` where `out` exists and is not empty, for a
    data set that cannot be opened, and for images that are missing.
    """
    reporter = PlainReporter() if reporter is None else reporter
    target = Path(out).expanduser().absolute()
    format = _writable(to)
    shard_bytes = None if shard_size is None else _shard_bytes(shard_size, format)
    check_free(target, str(out))
    opened, losses = _open_all(data, reporter), Losses()
    for split, dataset in opened.items():
        check_annotated_sizes(dataset, reporter, allow=allow_size_mismatch)
        opened[split] = cut_to_images(dataset, losses)
    notes = dict.fromkeys(note for dataset in opened.values() for note in dataset.notes)
    try:
        with new_folder(target) as work:
            if tiling is not None:
                opened, tiles = _cut_all(opened, tiling, work / _TILES, link=not copy, reporter=reporter)
                notes |= dict.fromkeys(tiles.notes(tiling))
            writer = _writer(format, shard_bytes, reporter)
            link = (not copy or tiling is not None) and not format.stores_images  # tiles are new files
            put = None if format.stores_images else _put
            linked, more, boxes = _write_all(opened, writer, put, work, losses, link=link, reporter=reporter)
            shutil.rmtree(work / _TILES, ignore_errors=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    notes |= dict.fromkeys(more)
    if WHOLE in opened:
        notes["the data set has no splits, so all of it is written as 'train'"] = None
    if not copy and not format.stores_images and tiling is None:
        notes["the images are hard links to the originals" if linked else "the images were copied"] = None
    counts = {split: {"images": len(dataset), "boxes": boxes[split]} for split, dataset in opened.items()}
    return Conversion(str(data), str(target), format.name, format.title, counts, dict(losses.counts), tuple(notes))


def _cut_all(
    opened: dict[str, Dataset], tiling: Tiling, folder: Path, *, link: bool, reporter: Reporter
) -> tuple[dict[str, Dataset], TileCounts]:
    """The tiles of all splits, whose files are in a folder each, and what became of images and objects.

    link: whether images that fit into one tile may be hard links.
    """
    counts, cut = TileCounts(), {}
    for number, (split, dataset) in enumerate(opened.items()):
        given = (_short_name(dataset.file_name(i), split) for i in range(len(dataset)))
        names = [_storable(name, dataset.image_file(i), all_names=False) for i, name in enumerate(given)]
        with reporter.progress(f"Cutting {split}") as progress:
            cut[split], more = cut_into_tiles(
                dataset,
                tiling,
                names,
                folder / str(number),
                keep=lambda file, path: _put(file, path, link),
                progress=progress,
            )
        counts += more
    return cut, counts


def check_free(target: Path, name: str) -> None:
    """Raises `DataError` where a folder to write is a file or not empty. name: as the user gave it."""
    if target.exists() and not target.is_dir():
        raise DataError(f"'{name}' is a file, not a folder.", "Name a new folder; nothing is overwritten.")
    if target.exists() and any(target.iterdir()):
        raise DataError(f"'{name}' exists and is not empty.", "Name a new folder; nothing is overwritten.")


def _writable(name: str) -> Format:
    """The format of this name. Raises `UsageError` where there is none that can be written."""
    known = {format.name: format for format in formats.FORMATS if format.write is not None}
    if name not in known:
        raise UsageError(
            f"There is no format '{name}' to write.{did_you_mean(name, known)}", f"The formats are {', '.join(known)}."
        )
    return known[name]


def _shard_bytes(given: int | str, format: Format) -> int:
    """The bytes of a shard. Raises `UsageError` for what is no size, or too small, or means nothing to the format."""
    if "shard_size" not in format.write_options:
        raise UsageError(f"{format.title} has no shards, so there is no shard size to choose.", "Leave it out.")
    size = parse_bytes(given) if isinstance(given, str) else given
    if size is None or size < SMALLEST_SHARD:
        raise UsageError(f"'{given}' is no size of a shard.", f"Give {SMALLEST_SHARD:,} bytes or more, such as 500MB.")
    return size


def _writer(format: Format, shard_size: int | None, reporter: Reporter) -> Writer:
    """The writer of a format, with the arguments that it takes."""
    assert format.write is not None  # only such a format is chosen
    options = {"shard_size": shard_size, "reporter": reporter}
    return format.write(**{name: options[name] for name in format.write_options})


def _write_all(
    opened: dict[str, Dataset],
    writer: Writer,
    put: Callable[[ImageFile, Path, bool], bool] | None,
    work: Path,
    losses: Losses,
    *,
    link: bool,
    reporter: Reporter,
) -> tuple[bool, list[str], dict[str, int]]:
    """Writes all splits into a folder.

    put: puts an image at its destination; None where the writer stores the images.  Returns whether every image is a
    link, notes for the user, and the number of boxes that were written, by split.
    """
    taken: dict[str, tuple[Dataset, int]] = {}
    notes: list[str] = []
    boxes: dict[str, int] = {}
    for split, dataset in opened.items():
        places, renamed = _places(writer, split, dataset, taken)
        if put is not None:
            with reporter.progress(f"Writing {split}") as progress:
                for i, place in enumerate(places):
                    link = put(dataset.image_file(i), work / place.folder / place.name, link)
                    progress(i + 1, len(places))
        before = losses.boxes_left_out
        writer.write(work, split, dataset, places, losses)
        boxes[split] = int(dataset.num_objects.sum()) - (losses.boxes_left_out - before)
        if renamed:
            reason = "because two shared one, or because the format cannot hold it"
            notes.append(f"{renamed} images of '{split}' have a new name, {reason}")
    writer.finish(work, next(iter(opened.values())).names)
    return link, notes, boxes


def _unwritable(out: str | Path, error: OSError) -> DataError:
    remedy = "Give --out a folder that you can write to, with room for the images."
    return DataError(f"'{out}' cannot be written: {reason_of(error)}.", remedy)


def _open_all(data: str | Path, reporter: Reporter) -> dict[str, Dataset]:
    """All splits, with one list of classes; a union of others (`trainval`) keeps its name."""
    opened: dict[str, Dataset] = {}
    names: tuple[str, ...] = ()
    for split in splits(data):
        opened[split] = open_dataset(data, split, reporter=reporter)
        names += tuple(name for name in opened[split].names if name not in names)
    return {split: dataset.with_names(names) for split, dataset in opened.items()}


def _places(
    writer: Writer, split: str, dataset: Dataset, taken: dict[str, tuple[Dataset, int]]
) -> tuple[list[Destination], int]:
    """Where each image goes, and how many had to be renamed.

    Names are kept, with their subfolders, less the folders that are part of the layout.
    """
    places, renamed = [], 0
    for i in range(len(dataset)):
        given = _short_name(dataset.file_name(i), split)
        name = _storable(given, dataset.image_file(i), all_names=not writer.one_file_an_image)
        stem, ending = os.path.splitext(name)
        number = 1
        while True:
            place = writer.destination(split, name)
            key = (
                f"{place.folder}/{os.path.splitext(place.name)[0] if writer.one_file_an_image else place.name}".lower()
            )
            if _is_same(*taken.setdefault(key, (dataset, i)), dataset, i):
                break
            number += 1
            name = f"{stem}-{number}{ending}"
        renamed += place.name != given
        places.append(place)
    return places, renamed


def _is_same(dataset: Dataset, i: int, other: Dataset, j: int) -> bool:
    """Whether two entries are one image with the same annotations, as `train` and `trainval` share them."""
    if dataset is other:
        return i == j
    same = np.array_equal(dataset.boxes(i), other.boxes(j)) and np.array_equal(dataset.labels(i), other.labels(j))
    if not same or dataset.labelled[i] != other.labelled[j]:
        return False
    first, second = dataset.image_file(i), other.image_file(j)
    try:
        if isinstance(first, str) and isinstance(second, str):
            return filecmp.cmp(first, second, shallow=False)
        return read_image_file(first, MAX_FILE) == read_image_file(second, MAX_FILE)
    except (OSError, ImageError):
        return first == second


def _short_name(name: str, split: str) -> str:
    """`images/train/a/b.jpg` is `a/b.jpg` of the split train."""
    if os.path.isabs(name):
        return os.path.basename(name)
    parts = name.split("/")
    layout = {"images", "JPEGImages", split, f"{split}2017"} | ({"valid"} if split == "val" else set())
    while len(parts) > 1 and parts[0] in layout:
        parts.pop(0)
    return "/".join(parts)


def _storable(name: str, file: ImageFile, *, all_names: bool) -> str:
    """The name, or the nearest one that every reader finds again.

    all_names: whether the format has no rules for names beside those of `plain_name`. The other formats find images by
    their endings, pass over hidden ones, and have lists of names without their endings.
    """
    parts = [re.sub(r"[\x00-\x1f\\\\:]", "_", part) for part in name.split("/")]
    if not all_names:
        stem, ending = os.path.splitext(parts.pop())
        if f"{ending}".lower() not in IMAGE_SUFFIXES:
            stem, ending = stem + ending, _ending(file)
        if is_image(stem) or stem.lower().endswith(".xml"):
            stem = "_".join(stem.rsplit(".", 1))
        parts = [f"{part}_" if part.lower() in ("images", "labels") else part for part in parts]
        parts = [re.sub(r"^[.]", "_.", part.strip()) or "_" for part in (*parts, stem)]
        parts[-1] += ending
    return "/".join(parts)


def _ending(file: ImageFile) -> str:
    """The usual ending of an image's format; `.jpg` where it cannot be told."""
    try:
        with file.open() if isinstance(file, Member) else open(file, "rb") as stream:
            return usual_ending(stream.read(1 << 16) or b"")
    except (OSError, ImageError):
        return ".jpg"


def _put(source: ImageFile, target: Path, link: bool) -> bool:
    """Links or copies an image; False where it was copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # the same image in two splits of a format that keeps all images in one folder
        return link
    if isinstance(source, Member):
        target.write_bytes(source.read())
        return False
    if not os.path.isfile(source):
        raise DataError(f"The image '{source}' does not exist.", "`onelook check` lists all that are missing.")
    if link:
        try:
            os.link(os.path.realpath(source), target)
            return True
        except OSError:
            pass
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.filename == source:
            reason = reason_of(error)
            raise DataError(f"The image '{source}' cannot be read: {reason}.", "Check its permissions.") from error
        raise
    return False
