"""Collects images and objects in reading order and lays them out as the flat arrays of an index."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onelook.data.index import MEASURED, SCHEMA

SPARSEST = 8  # ids are looked up in a table as long as it is at most so many times as long as the ids themselves
GATHERED_AT_ONCE = 1 << 14  # runs; their rows are listed one by one, which takes more room than the values themselves


class PackedTexts:
    """Many short texts as one run of bytes with offsets. Texts that are all empty take no room at all."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def add(self, text: str) -> None:
        """Appends one text."""
        if text:
            self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def extend(self, texts: Sequence[bytes] | None, count: int) -> None:
        """Appends `count` texts in UTF-8; None stands for empty ones."""
        if texts is None:
            self._ends.extend([len(self._bytes)] * count)
            return
        ends = len(self._bytes) + np.cumsum(np.fromiter(map(len, texts), np.int64, count))
        self._ends.frombytes(ends.view(np.uint8).data)
        self._bytes += b"".join(texts)

    def texts(self) -> list[str]:
        """All texts."""
        return [self._bytes[start:stop].decode() for start, stop in pairwise(self._ends)]

    def arrays(self, order: np.ndarray, *, sparse: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(offsets, bytes) of the texts in this order; two empty arrays for `sparse` ones that are all empty texts."""
        ends = np.frombuffer(self._ends, np.int64)
        if sparse and not self._bytes:
            return np.zeros(0, np.int64), np.zeros(0, np.uint8)
        return gather_runs(ends, np.frombuffer(self._bytes, np.uint8), order)


def gather_runs(offsets: np.ndarray, values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(new offsets, values) of the runs `values[offsets[i]:offsets[i + 1]]` in the given order."""
    if np.array_equal(order, np.arange(len(offsets) - 1)):
        return offsets, values
    return _gather(offsets[order], np.diff(offsets)[order], values)


def gather_spans(spans: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, values) of the runs `values[start:stop]` one after another. spans: (R, 2) start and stop of each."""
    return _gather(spans[:, 0], spans[:, 1] - spans[:, 0], values)


def _gather(starts: np.ndarray, lengths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ends = np.concatenate(([0], np.cumsum(lengths)))
    gathered = np.empty((int(ends[-1]), *values.shape[1:]), values.dtype)
    for first in range(0, len(starts), GATHERED_AT_ONCE):
        part = slice(first, first + GATHERED_AT_ONCE)
        start, stop = int(ends[first]), int(ends[min(part.stop, len(starts))])
        rows = np.arange(start, stop) + np.repeat(starts[part] - ends[:-1][part], lengths[part])
        np.take(values, rows, axis=0, out=gathered[start:stop], mode="clip")  # quicker than by index
    return ends, gathered


@dataclass(frozen=True)
class ImageColumns:
    """Many images at once, column by column; see `Images.add`.  sizes: (I, 2).  extras: None where none has any."""

    ids: np.ndarray
    names: Sequence[bytes]
    sizes: np.ndarray
    extras: Sequence[bytes] | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Images:
    """The images of a split, in any order; `ids` may still be unknown to the objects."""

    def __init__(self) -> None:
        self.ids, self.heights, self.widths = array("q"), array("i"), array("i")
        self.flags, self.names, self.extras, self.lines = bytearray(), PackedTexts(), PackedTexts(), array("q")

    def add(
        self, image_id: int, name: str, size: tuple[int, int], *, flags: int, line: int = 0, extra: str = ""
    ) -> None:
        """Appends one image. size: height and width, 0 where unknown until the file's header is read."""
        self.ids.append(image_id)
        self.heights.append(size[0])
        self.widths.append(size[1])
        self.flags.append(flags)
        self.names.add(name)
        self.lines.append(line)
        self.extras.add(extra)

    def extend(self, columns: ImageColumns, lines: Iterable[int]) -> None:
        """Appends many images, without flags."""
        self.ids.frombytes(columns.ids.view(np.uint8).data)
        self.heights.extend(columns.sizes[:, 0].tolist())
        self.widths.extend(columns.sizes[:, 1].tolist())
        self.flags += bytes(len(columns))
        self.lines.extend(lines)
        self.names.extend(columns.names, len(columns))
        self.extras.extend(columns.extras, len(columns))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ObjectColumns:
    """Many objects at once, column by column; see `Objects.add`.

    ring_counts: (M,) outlines of every object.  ring_sizes: values in every outline, all objects one after another.
    points: these values.  extras: texts, empty where there is nothing; None where no object has any.
    """

    ids: np.ndarray
    image_ids: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    flags: np.ndarray
    ring_counts: np.ndarray
    ring_sizes: np.ndarray
    points: np.ndarray
    extras: Sequence[bytes] | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Objects:
    """The objects of a split, in any order, with the id of their image and of their category."""

    def __init__(self) -> None:
        self.ids, self.image_ids, self.categories = array("q"), array("q"), array("q")
        self.boxes, self.areas, self.flags = array("d"), array("d"), bytearray()
        self.ring_ends, self.point_ends, self.points = array("q", [0]), array("q", [0]), array("d")
        self.extras, self.lines = PackedTexts(), array("q")

    def add(
        self,
        annotation_id: int,
        image_id: int,
        category: int,
        box: Sequence[float],
        *,
        area: float,
        flags: int = 0,
        rings: Sequence[Sequence[float]] = (),
        line: int = 0,
        extra: str = "",
    ) -> None:
        """Appends one object. box: left, top, width, height in pixels. rings: x, y, x, y, ... in pixels."""
        self.ids.append(annotation_id)
        self.image_ids.append(image_id)
        self.categories.append(category)
        self.boxes.extend(box)
        self.areas.append(area)
        self.flags.append(flags)
        for ring in rings:
            self.points.extend(ring)
            self.point_ends.append(len(self.points) // 2)
        self.ring_ends.append(len(self.point_ends) - 1)
        self.lines.append(line)
        self.extras.add(extra)

    def extend(self, columns: ObjectColumns, lines: Iterable[int]) -> None:
        """Appends many objects."""
        for own, new in (
            (self.ids, columns.ids),
            (self.image_ids, columns.image_ids),
            (self.categories, columns.categories),
            (self.boxes, columns.boxes),
            (self.areas, columns.areas),
            (self.point_ends, len(self.points) // 2 + np.cumsum(columns.ring_sizes, dtype=np.int64) // 2),
            (self.ring_ends, self.ring_ends[-1] + np.cumsum(columns.ring_counts, dtype=np.int64)),
            (self.points, columns.points),
        ):
            own.frombytes(np.ravel(new).view(np.uint8).data)
        self.flags += columns.flags.tobytes()
        self.lines.extend(lines)
        self.extras.extend(columns.extras, len(columns))

    def __len__(self) -> int:
        return len(self.ids)


def lay_out(
    images: Images, objects: Objects, labels: np.ndarray, rows: np.ndarray, kept: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The arrays of an index: images in reading order, objects grouped by image, in reading order inside it.

    labels: (M,) class of every object.  rows: (M,) row of its image.  kept: (M,) bool, None for all. Beside the arrays
    of the schema there are `image_lines` and `object_lines`, for messages; they are not kept.
    """
    if kept is None or kept.all():
        order = np.argsort(rows, kind="stable")
    else:
        chosen = np.flatnonzero(kept)
        order = chosen[np.argsort(rows[chosen], kind="stable")]
    counts = np.bincount(rows[order], minlength=len(images)) if len(order) else np.zeros(len(images), np.int64)
    every = np.arange(len(images))
    result: dict[str, np.ndarray] = {
        "image_ids": as_array(images.ids, np.int64),
        "sizes": np.stack([as_array(images.heights, np.int32), as_array(images.widths, np.int32)], axis=1),
        "image_flags": as_array(images.flags, np.uint8),
        "object_offsets": np.concatenate(([0], np.cumsum(counts))),
        "boxes": as_array(objects.boxes, np.float64).reshape(-1, 4).take(order, axis=0),
        "labels": np.asarray(labels, np.int32)[order],
        "annotation_ids": as_array(objects.ids, np.int64).take(order, axis=0),
        "areas": as_array(objects.areas, np.float64).take(order, axis=0),
        "object_flags": as_array(objects.flags, np.uint8).take(order, axis=0),
        "image_lines": as_array(images.lines, np.int64),
        "object_lines": as_array(objects.lines, np.int64).take(order, axis=0),
    }
    result["name_offsets"], result["name_bytes"] = images.names.arrays(every)
    result["image_extra_offsets"], result["image_extra_bytes"] = images.extras.arrays(every, sparse=True)
    result["object_extra_offsets"], result["object_extra_bytes"] = objects.extras.arrays(order, sparse=True)
    result.update(_outlines(objects, order))
    result.update(empty_arrays("member_places"))
    return result


def mark_measured(arrays: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """Notes that the sizes of these images were read from their files, which the kept index then depends on."""
    flags = arrays["image_flags"].copy()
    flags[rows] |= MEASURED
    arrays["image_flags"] = flags


def as_array(values: array[int] | array[float] | bytearray, dtype: type[np.generic]) -> np.ndarray:
    """The same memory as an array; while it is used, nothing can be appended to the values."""
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)


def _outlines(objects: Objects, order: np.ndarray) -> dict[str, np.ndarray]:
    if len(objects.point_ends) == 1:
        return empty_arrays("ring_offsets", "ring_spans", "points")
    offsets, spans = gather_runs(as_array(objects.ring_ends, np.int64), spans_of(objects.point_ends), order)
    # The points stay in reading order: they are most of a file, and to move them takes longer than all the rest here.
    return {"ring_offsets": offsets, "ring_spans": spans, "points": as_array(objects.points, np.float64).reshape(-1, 2)}


def lay_out_rings(objects: Iterable[Iterable[np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of the outlines of an index. objects: of each, in order, its rings (P, 2) of x and y, in pixels."""
    ring_offsets, point_offsets, points = [0], [0], [np.zeros((0, 2))]
    for rings in objects:
        for ring in rings:
            points.append(ring)
            point_offsets.append(point_offsets[-1] + len(ring))
        ring_offsets.append(len(point_offsets) - 1)
    return {
        "ring_offsets": np.array(ring_offsets, np.int64),
        "ring_spans": spans_of(np.array(point_offsets)),
        "points": np.concatenate(points),
    }


def spans_of(offsets: array[int] | np.ndarray) -> np.ndarray:
    """(R, 2) start and stop of every run that R + 1 offsets bound."""
    ends = np.asarray(offsets, np.int64)
    return np.stack([ends[:-1], ends[1:]], axis=1)


def empty_arrays(*names: str) -> dict[str, np.ndarray]:
    """Arrays of the schema without rows."""
    return {name: np.zeros((0, *SCHEMA[name][1]), SCHEMA[name][0]) for name in names}


def rows_of(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N,) position of every wanted id among the known ones, -1 where it is not there; of equal ones the first."""
    if not len(known):
        return np.full(len(wanted), -1)
    first, last = int(known.min()), int(known.max())
    if last - first < SPARSEST * (len(known) + len(wanted)):
        table = np.full(last - first + 2, -1)  # the last entry is for what is outside
        table[(known - first)[::-1]] = np.arange(len(known))[::-1]
        inside = (wanted >= first) & (wanted <= last)
        return table.take(np.where(inside, wanted - first, last - first + 1))
    order = np.argsort(known, kind="stable")
    places = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
    rows = order[places]
    return np.where(known[rows] == wanted, rows, -1)
