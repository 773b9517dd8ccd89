"""Gathers the images and objects of formats whose images have names and whose objects have class names."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import index as bits
from onelook.data.arrays import points_in_order
from onelook.data.building import Images, Objects, lay_out, mark_measured
from onelook.data.class_names import CLASS_LIMIT
from onelook.data.formats.base import Arrays, FilesOf, ReadSplit, Source
from onelook.data.formats.bounded_xml import REMEDY
from onelook.data.paths import images_below, plain_name, why_unusable
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.data.split_names import split_word
from onelook.errors import ImageError
from onelook.reporter import Progress

LARGEST = 1e7  # pixels
SIDE_LIMIT = 1 << 20  # pixels of an image
_FRACTION = 128  # an object flag that is gone when reading ends: the box and outlines are fractions of the image


def read_number(text: object) -> float | None:
    """A finite number of a sensible size, from a text or a number; None for anything else."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        return None
    if isinstance(text, str) and "_" in text:  # which Python takes as a separator of digits
        return None
    try:
        value = float(text)
    except (ValueError, OverflowError):
        return None
    return value if -LARGEST < value < LARGEST else None


class ImagePlaces:
    """The images below a folder, by the names that annotations may call them."""

    def __init__(self, root: Path) -> None:
        names = images_below(root) if root.is_dir() else []
        self._root, self._paths = root, set(names)
        self._by_name: dict[str, list[str]] = {}
        for path in names:
            name = path.rpartition("/")[2]
            for key in {name, os.path.splitext(name)[0]}:
                self._by_name.setdefault(key, []).append(path)

    def find(self, name: str, folders: Sequence[str] = (), foreign: Sequence[str] = ()) -> str | None:
        """The path of an image below the folder; None where there is none, or several and no way to choose.

        name: a path in any folder, with or without its ending.  folders: where it is looked for first.  foreign:
        folders of other splits, whose images must be named by their whole paths: names such as 0001.jpg are in each.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if not parts:
            return None
        places = [f"{folder}/" if folder else "" for folder in (*folders, "")]
        full = "/".join(parts)
        for place in places:
            # Hidden files, and those without an ending, are not among the images below the folder.
            if place + full in self._paths or os.path.isfile(self._root / (place + full)):
                return place + full
        for start in range(1, len(parts)):
            path = next((one for place in places if (one := place + "/".join(parts[start:])) in self._paths), None)
            if path is not None and not _is_inside(path, foreign):
                return path
        found = [path for path in self._by_name.get(parts[-1], []) if not _is_inside(path, foreign)]
        inside = [path for path in found if _is_inside(path, folders)]
        return next((some[0] for some in (found, inside) if len(some) == 1), None)


def _is_inside(path: str, folders: Sequence[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


class Collector:
    """The images and objects of one split in reading order; faults go to the problems, and the entry is left out.

    folders, foreign: see `ImagePlaces.find`.
    """

    def __init__(
        self, problems: Problems, places: ImagePlaces, folders: Sequence[str] = (), foreign: Sequence[str] = ()
    ) -> None:
        self.problems, self._places, self._folders, self._foreign = problems, places, folders, foreign
        self._images, self._objects = Images(), Objects()
        self._rows: dict[str, int] = {}
        self._labels = array("q")
        self.names: dict[str, int] = {}

    def find(self, name: str) -> str | None:
        """The path of an image below the data set's folder; None where it is not found."""
        return self._places.find(name, self._folders, self._foreign)

    def image(
        self, name: object, size: tuple[object, object] = (None, None), *, labelled: bool = True, **place: Any
    ) -> int | None:
        """The row of an image, which is added at its first mention; None for a name or size that is unusable.

        size: (height, width) as annotated, each a number or None where it is missing.  labelled: whether it is
        annotated, even if with no object.  place: file and line.
        """
        found = None
        if isinstance(name, str) and (found := self.find(name)) is None and name != name.strip():
            name = name.strip()  # spaces beside a comma
            found = self.find(name)
        path = found or plain_name(name)
        if path is None:
            shown = repr(name)[:80]
            self.problems.error("file-name", f"the name {shown} of an image {why_unusable(name)}.", REMEDY, **place)
            return None
        if path in self._rows:
            return self._rows[path]
        sides = [0.0 if side is None else read_number(side) for side in size]
        if any(side is None or side != int(side) or not 0 <= side <= SIDE_LIMIT for side in sides):
            shown = f"{size[1]!r} x {size[0]!r}"[:80]
            message = f"the size of '{path[:200]}' must be numbers of pixels, not {shown}."
            self.problems.error("image-size", message, REMEDY, **place)
            sides = [0.0, 0.0]
        height, width = (int(side or 0) for side in sides)
        row = self._rows[path] = len(self._images)
        known = (height, width) if height and width else (0, 0)
        self._images.add(row + 1, path, known, flags=bits.LABELLED if labelled else 0, line=place.get("line") or 0)
        return row

    def box(
        self,
        row: int,
        name: object,
        corners: Sequence[object],
        *,
        fractions: bool = False,
        flags: int = 0,
        outline: Sequence[float] = (),
        **place: Any,
    ) -> None:
        """Adds an object. corners: x1, y1, x2, y2.  fractions: of the image's width and height, not pixels.

        outline: x, y, x, y ... in the unit of the box.  place: file and line.
        """
        if not isinstance(name, str) or not name.strip():
            self.problems.error("class-format", "an object has no class name.", REMEDY, **place)
            return
        name = name.strip()
        numbers = [read_number(value) for value in corners]
        if None in numbers:
            wrong = corners[numbers.index(None)]
            message = f"the box of '{name[:60]}' has {str(wrong)[:60]!r} where a number is expected."
            self.problems.error("box-format", message, REMEDY, **place)
            return
        x1, y1, x2, y2 = (number or 0.0 for number in numbers)
        if x2 < x1 or y2 < y1:
            self.problems.error("box-negative", f"the box of '{name[:60]}' ends before it starts.", REMEDY, **place)
            return
        if fractions and not -1 <= min(x1, y1) <= max(x2, y2) <= 2:
            message = f"the box of '{name[:60]}' has values outside of 0 to 1, so they are no fractions of the image."
            self.problems.error("box-units", message, REMEDY, **place)
            return
        if len(self.names) >= CLASS_LIMIT and name not in self.names:
            self.problems.error("class-format", f"there are more than {CLASS_LIMIT:,} classes.", REMEDY, **place)
            return
        self._labels.append(self.names.setdefault(name, len(self.names)))
        self._objects.add(
            len(self._objects) + 1,
            row,
            0,
            (x1, y1, x2 - x1, y2 - y1),
            area=0.0,
            flags=flags | (_FRACTION if fractions else 0),
            rings=[outline] if len(outline) >= 6 else (),
            line=place.get("line") or 0,
        )

    def outline(self, row: int, name: object, points: object, **given: Any) -> None:
        """Adds an object with an outline, whose bounds are its box. points: pairs x, y."""
        flat = _flat(points)
        if flat is None or len(flat) < 6:
            place = {key: given[key] for key in ("file", "line") if key in given}
            shown = str(name)[:60]
            message = f"the outline of '{shown}' must be three or more pairs of numbers."
            self.problems.error("outline-format", message, REMEDY, **place)
            return
        xs, ys = flat[::2], flat[1::2]
        self.box(row, name, (min(xs), min(ys), max(xs), max(ys)), outline=flat, **given)

    def finish(self, source: Source, names: Iterable[str], notes: Sequence[str], progress: Progress) -> Arrays:
        """The arrays and the meta of the split's index. names: all classes, in their order."""
        classes = tuple(names)
        label = {name: number for number, name in enumerate(classes)}
        listed = source.names_file or source.root
        known = np.array([label.get(name, -1) for name in self.names], np.int64)
        own = np.array(self._labels, np.int64)
        labels = known[own] if len(own) else own
        for name in self.names:
            if name not in label:
                message = f"The class '{name[:60]}' is not in the list of classes."
                self.problems.error("unknown-category", message, "Add it to the list, or correct it.", file=str(listed))
        rows = np.array(self._objects.image_ids, np.int64)
        arrays = lay_out(self._images, self._objects, labels, rows, labels >= 0)
        self._measure(arrays, source.root, progress)
        _scale(arrays)
        return arrays, {"names": list(classes), "category_ids": list(range(len(classes))), "notes": list(notes)}

    def _measure(self, arrays: dict[str, np.ndarray], root: Path, progress: Progress) -> None:
        """Reads sizes that are not annotated from the headers of the images."""
        missing = np.flatnonzero((arrays["sizes"] == 0).any(axis=1))
        names = self._images.names.texts()
        paths = [f"{root}/{names[row]}" for row in missing.tolist()]
        sizes = image_sizes(paths, progress, stop=self.problems.strict)
        for row, path, size in zip(missing.tolist(), paths, sizes):
            if isinstance(size, ImageError):
                self.problems.error("image-unreadable", size.message, size.remedy, file=path)
            else:
                arrays["sizes"][row] = size
        mark_measured(arrays, missing)


def _flat(points: object) -> list[float] | None:
    """x, y, x, y ... of a list of pairs; None where it is something else."""
    flat: list[float] = []
    for point in points if isinstance(points, (list, tuple)) else ():
        pair = point if isinstance(point, (list, tuple)) else ()
        numbers = [read_number(value) for value in pair]
        if len(numbers) != 2 or None in numbers:
            return None
        flat += [number or 0.0 for number in numbers]
    return flat


def _scale(arrays: dict[str, np.ndarray]) -> None:
    """Makes pixels of fractions, and areas of boxes."""
    flags = arrays["object_flags"]
    images = np.repeat(np.arange(len(arrays["sizes"])), np.diff(arrays["object_offsets"]))
    fractions = (flags & _FRACTION) > 0
    size = arrays["sizes"][images][:, ::-1].astype(np.float64)  # width, height
    scale = np.where(fractions[:, None], size, 1.0)
    arrays["boxes"] = arrays["boxes"] * np.concatenate([scale, scale], axis=1)
    arrays["areas"] = arrays["boxes"][:, 2] * arrays["boxes"][:, 3]
    arrays["object_flags"] = flags & (_FRACTION - 1)
    if len(arrays["ring_offsets"]):
        arrays |= points_in_order(arrays["ring_spans"], arrays["points"])
        counts = np.diff(arrays["ring_spans"]).ravel()
        owners = np.repeat(np.arange(len(scale)), np.diff(arrays["ring_offsets"]))
        arrays["points"] = arrays["points"] * scale[np.repeat(owners, counts)]


def turned(corners: Sequence[float], degrees: float, pivot: Sequence[float]) -> list[tuple[float, float]]:
    """The four points of a box (x1, y1, x2, y2) that is turned clockwise about a point."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x1, y1, x2, y2 = corners
    px, py = pivot
    return [
        (px + (x - px) * cosine - (y - py) * sine, py + (x - px) * sine + (y - py) * cosine)
        for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    ]


Parse = Callable[[Source, str, Collector, Progress], None]
"""Reads one split into a collector."""


def read_collected(  # noqa: PLR0917  # the arguments of `Format.read`, and two more
    parse: Parse, source: Source, split: str, problems: Problems, progress: Progress, folders: Sequence[str] = ()
) -> Arrays:
    """The arrays and the meta of one split. Classes are those of the source, or of all splits in alphabetical order.

    folders: below the data set's folder, where the split's images are looked for first.
    """
    places = ImagePlaces(source.root)
    own = _folder(source, split)
    others = {_folder(source, other) for other in source.parts}
    collector = Collector(problems, places, folders, sorted(others - {own, ""}) if own else ())
    parse(source, split, collector, progress)
    names = set(collector.names)
    for other in source.parts if source.names is None else ():
        if other != split:  # faults of other splits are reported when those are opened
            quiet = Collector(Problems(strict=False, limit=0), places)
            parse(source, other, quiet, progress)
            names |= set(quiet.names)
    classes = sorted(names) if source.names is None else source.names
    return collector.finish(source, classes, (), progress)


def _folder(source: Source, split: str) -> str:
    """The folder of a split that has one to itself, below the data set's folder; "" for others."""
    part = source.parts[split]
    folder = part.annotations.parent if part.annotations is not None else part.images[0]
    name = relative_name(folder, source.root) if folder.is_relative_to(source.root) else ""
    return name if split_word(name) is not None else ""


def in_splits(files: Sequence[Path]) -> list[Path]:
    """The files, where one of their folders is called as splits are; else none."""
    return list(files) if any(split_word(path.parent.name) for path in files) else []


def files_with_images(source: Source, annotations: Iterable[Path]) -> FilesOf:
    """The files that a split is read from: its annotations, and the names of all images below the data set's folder."""
    for path in annotations:
        yield relative_name(path, source.root), str(path)
    yield from ((name, "") for name in (images_below(source.root) if source.root.is_dir() else ()))
    yield "|".join(source.names or ()), ""


def annotations_and_images(source: Source, split: str) -> FilesOf:
    """The files that a split is read from, in formats whose every split has one annotation file: all those of them."""
    return files_with_images(source, [source.annotations_of(other) for other in source.parts])


def relative_name(path: Path, root: Path) -> str:
    """A path below a folder with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def check_unlisted(source: Source, read: Sequence[ReadSplit], problems: Problems) -> None:
    """Reports images that no annotation names, in the folders of those that are named."""
    listed = {part.index.name(row) for part in read for row in range(len(part.index))}
    folders = {name.rpartition("/")[0] for name in listed}
    for name in images_below(source.root):
        if name not in listed and name.rpartition("/")[0] in folders:
            message = "No annotation names this image, so it is not used."
            problems.warning("image-not-listed", message, "Annotate it, or delete it.", file=f"{source.root}/{name}")
