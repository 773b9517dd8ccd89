"""CVAT: "CVAT for images 1.1", one XML file for all images, with boxes and polygons in pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import IO, Any

from onelook.data import index as bits
from onelook.data.class_names import CLASS_LIMIT, unique_names
from onelook.data.formats.base import (
    UNLABELLED,
    Arrays,
    Destination,
    Format,
    Losses,
    Part,
    Source,
    count_lost,
    single_outline,
    split_folder,
)
from onelook.data.formats.bounded_xml import REMEDY, TEXT_LIMIT, BoundedXml, printable
from onelook.data.formats.collector import (
    Collector,
    annotations_and_images,
    check_unlisted,
    in_splits,
    read_collected,
    read_number,
    turned,
)
from onelook.data.paths import first_bytes
from onelook.data.problems import Problems
from onelook.data.split import Dataset
from onelook.data.split_names import named_splits, split_word
from onelook.errors import DataError, reason_of
from onelook.reporter import Progress

FILE_LIMIT = 4 << 30  # bytes
_PEEK = 4096  # bytes
_NOT_BOXES = ("polyline", "points", "mask", "ellipse", "cuboid", "skeleton", "tag")


def find(root: Path) -> Source | None:
    """CVAT in a folder: an XML file of it, or one in each `{split}/`; None where there is none."""
    for pattern in ("*.xml", "annotations/*.xml", "*/*.xml"):
        files = [path for path in sorted(root.glob(pattern)) if not path.name.startswith(".") and _is_cvat(path)]
        if pattern == "*/*.xml":
            files = in_splits(files)
        if files:
            return _source(files, root, root)
    return None


def find_file(path: Path) -> Source | None:
    """The data set of one file of CVAT; None for other files."""
    return _source([path], path.parent, path) if path.suffix.lower() == ".xml" and _is_cvat(path) else None


def _is_cvat(path: Path) -> bool:
    return re.search(rb"<annotations[\s>]", first_bytes(path, _PEEK)) is not None


def _source(files: Sequence[Path], root: Path, described_by: Path) -> Source:
    """The splits are those of the folders, or the subsets that a file names; the classes those of the tasks' labels."""
    parts: dict[str, Part] = {}
    names: dict[str, None] = {}
    for path in files:
        head = _Head(path)
        with _opened(path) as file:
            head.parse(file)
        names |= dict.fromkeys(head.names)
        inside = path.parent != root and path.parent.name != "annotations"
        for split in [path.parent.name] if inside else head.subsets or [path.stem]:
            if split in parts:
                raise DataError(f"'{root}' has several files for the split '{split}'.", f"Give one, such as '{path}'.")
            parts[split] = Part(path)
    return Source(CVAT, root, described_by, named_splits(parts), unique_names(tuple(names), files[0]) or None)


def _opened(path: Path) -> IO[bytes]:
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise DataError(f"'{path}' is longer than {FILE_LIMIT >> 30} GB.", "Export the task in parts.")
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {reason_of(error)}.", "Check the file.") from error


class _Head(BoundedXml):
    """Collects the names of the labels and the subsets of the images."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "annotations")
        self.names: list[str] = []
        self._subsets: dict[str, None] = {}
        self._unnamed = False
        self._text = ""

    @property
    def subsets(self) -> list[str]:
        """The subsets, where every image has one."""
        return [] if self._unnamed else list(self._subsets)

    def started(self, place: str, attributes: dict[str, str]) -> None:
        """Keeps the subset of an image."""
        self._text = ""
        if place == "image":
            subset = attributes.get("subset", "").strip()
            self._unnamed |= not subset
            if subset and len(self._subsets) < TEXT_LIMIT:
                self._subsets[subset] = None

    def characters(self, text: str) -> None:
        """Collects text."""
        if len(self._text) <= TEXT_LIMIT:
            self._text += text

    def ended(self, place: str) -> None:
        """Keeps the name of a label."""
        name = self._text.strip()
        if place.endswith("labels/label/name") and name and len(name) <= TEXT_LIMIT and name not in self.names:
            self.names.append(name)
            if len(self.names) > CLASS_LIMIT:
                self.fail(f"there are more than {CLASS_LIMIT:,} labels")
        self._text = ""


class _Images(BoundedXml):
    """Adds the images of a split and their boxes and polygons."""

    def __init__(self, path: Path, collector: Collector, subset: str | None) -> None:
        super().__init__(path, "annotations")
        self._collector, self._subset = collector, subset
        self._row: int | None = None
        self.count = 0

    def started(self, place: str, attributes: dict[str, str]) -> None:
        """Adds an image or an object."""
        tag = self.tags[-1]
        here: dict[str, Any] = {"file": str(self.path), "line": self.line}
        if place == "track":
            self.fail("these are tracks of a video, which are not read: export the task as 'CVAT for images 1.1'")
        if place == "image":
            self.count += 1
            self._row = None
            subset = attributes.get("subset", "").strip()
            if self._subset is None or subset == self._subset:
                size = (attributes.get("height"), attributes.get("width"))
                self._row = self._collector.image(attributes.get("name"), size, **here)
        if self._row is None or len(self.tags) != 3 or self.tags[1] != "image":
            return
        flags = bits.OCCLUDED if attributes.get("occluded") == "1" else 0
        if tag == "box":
            corners = [attributes.get(side) for side in ("xtl", "ytl", "xbr", "ybr")]
            numbers = [number for number in map(read_number, corners) if number is not None]
            degrees = read_number(attributes.get("rotation", "0"))
            if degrees is None:
                message = f"the rotation of a box of '{attributes.get('label', '')[:60]}' is no number."
                self._collector.problems.error("box-format", message, REMEDY, **here)
                return
            if degrees and len(numbers) == 4:
                centre = ((numbers[0] + numbers[2]) / 2, (numbers[1] + numbers[3]) / 2)
                points = turned(numbers, degrees, centre)
                self._collector.outline(self._row, attributes.get("label"), points, flags=flags, **here)
                return
            self._collector.box(self._row, attributes.get("label"), corners, flags=flags, **here)
        elif tag == "polygon":
            text = attributes.get("points", "")
            pairs = [pair.split(",") for pair in text.split(";")]
            self._collector.outline(self._row, attributes.get("label"), pairs, flags=flags, **here)
        elif tag in _NOT_BOXES:
            message = f"a <{tag}> of '{attributes.get('label', '')[:60]}' has no box."
            self._collector.problems.warning("shape-without-box", message, "It is not used.", **here)

    def ended(self, place: str) -> None:
        """Ends an image."""
        if place == "image":
            self._row = None


def _subset(source: Source, split: str) -> str | None:
    """What the file calls the split; None where the whole file is the split."""
    path = source.annotations_of(split)
    if sum(part.annotations == path for part in source.parts.values()) == 1:
        return None
    head = _Head(path)
    with _opened(path) as file:
        head.parse(file)
    return next((subset for subset in head.subsets if split in (subset, split_word(subset))), split)


def _parse(source: Source, split: str, collector: Collector, progress: Progress) -> None:
    path = source.annotations_of(split)
    images = _Images(path, collector, _subset(source, split))
    with _opened(path) as file:
        images.parse(file)
    progress(1, 1)


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    path = source.annotations_of(split)
    own = [] if path.parent == source.root else [path.parent.name, f"{path.parent.name}/images"]
    subset = _subset(source, split) or split
    folders = [*own, subset, f"images/{subset}", f"images/{split}", "images"]
    return read_collected(_parse, source, split, problems, progress, folders)


class CvatWriter:
    """Writes `{split}/annotations.xml` and `{split}/images/`. Objects with one outline become polygons."""

    one_file_an_image = False

    def destination(self, split: str, name: str) -> Destination:
        """Images keep their names under the split's folder."""
        return Destination(f"{split_folder(split)}/images", name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the file of one split."""
        count_lost(dataset, losses, crowds=True)
        losses.add(UNLABELLED, int((~dataset.labelled).sum()))
        (out / split_folder(split)).mkdir(exist_ok=True)
        with open(out / split_folder(split) / "annotations.xml", "w", encoding="utf-8") as file:
            images = (image_xml(dataset, i, place.name, losses) for i, place in enumerate(places))
            file.writelines(cvat_xml(dataset.names, images))

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Each file has the list of classes."""


def cvat_xml(names: Sequence[str], images: Iterable[str], attribute: str = "") -> Iterator[str]:
    """The parts of a file. images: of `image_xml`.  attribute: name of a text that each label may have; "" for none."""
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task><labels>\n'
    more = ""
    if attribute:
        more = f"<attributes><attribute><name>{attribute}</name><mutable>False</mutable><input_type>text</input_type>"
        more += "<default_value></default_value><values></values></attribute></attributes>"
    yield from (f"    <label><name>{escape(printable(name))}</name>{more}</label>\n" for name in names)
    yield "  </labels></task></meta>\n"
    yield from images
    yield "</annotations>\n"


def image_xml(dataset: Dataset, i: int, name: str, losses: Losses, more: Sequence[str] = ()) -> str:
    """One image with its objects, and further shapes."""
    height, width = dataset.sizes[i].tolist()
    start = f'  <image id="{i}" name="{escape(printable(name))}" width="{width}" height="{height}">\n'
    return "".join([start, *_shapes(dataset, i, losses), *more, "  </image>\n"])


def _shapes(dataset: Dataset, i: int, losses: Losses) -> list[str]:
    index, span, found = dataset.index, dataset.span(i), []
    for thing, label in zip(range(span.start, span.stop), dataset.labels(i).tolist()):
        left, top, w, h = index.boxes[thing].tolist()
        ring = single_outline(dataset, thing, losses)
        occluded = int(index.object_flags[thing] & bits.OCCLUDED > 0)
        start = f'label="{escape(printable(dataset.names[label]))}" source="manual" occluded="{occluded}"'
        if ring:
            points = ";".join(f"{x!r},{y!r}" for x, y in ring)
            found.append(f'    <polygon {start} points="{points}" z_order="0"/>\n')
            continue
        corners = f'xtl="{left!r}" ytl="{top!r}" xbr="{left + w!r}" ybr="{top + h!r}"'
        found.append(f'    <box {start} {corners} z_order="0"/>\n')
    return found


CVAT = Format(
    name="cvat",
    title="CVAT XML",
    layout="annotations.xml of 'CVAT for images', beside the images or images/",
    find=find,
    find_file=find_file,
    files_of=annotations_and_images,
    rank=1,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: str(source.annotations_of(split)),
    write=CvatWriter,
    check=check_unlisted,
)
