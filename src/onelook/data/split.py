"""One split of a data set: its images and objects by row, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.boxes import BeyondImage, clean_boxes, cut_outline, reach_beyond, xywh_to_xyxy
from onelook.data.index import CROWD, DIFFICULT, LABELLED, DamagedIndexError, Index, reopen_index
from onelook.data.members import ImageFile, image_file
from onelook.data.remote import Url
from onelook.errors import DataError
from onelook.types import Sample

PIXEL_LIMIT = 200_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set (or a part of it): I images in index order, their objects in file order.

    index: the memory-mapped arrays.  names: (C,) class names, ordered by the data set's own ids.  category_ids: (C,)
    those ids (0 to C - 1 for formats without).  root: folder the images' names are relative to.  format, format_title:
    its name, short (`coco`) and as shown.  split: its name.  described_by: the file or folder that was opened.
    annotations: the annotation file, where there is one for the split.  has_boxes: False where an image has a class and
    no boxes, as a classifier learns them.  has_ids: whether the annotations have ids of their own.  ignores_difficult:
    whether objects marked difficult are neither hit nor miss in an evaluation, as Pascal VOC has it; COCO's protocol
    counts them like all others.  beyond_image: what training makes of a box that reaches beyond its image
    (`onelook.data.boxes`).  shards: the tar files that the images are in, paths or URLs; () where they are files of
    their own.  rows: the images of a part (`view`), None for all.  relabel: the label of each class of the
    index, None where they are equal.  notes: what was assumed.

    Boxes are as annotated; only `sample` and `coco_ground_truth` cut them. Copies and pickles share the memory-mapped
    index: a worker process maps the same file. A pickled data set whose index was rebuilt meanwhile raises `DataError`
    when it is loaded.
    """

    index: Index
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    root: Path
    format: str
    format_title: str
    split: str
    described_by: Path | Url
    annotations: Path | None = None
    has_boxes: bool = True
    has_ids: bool = False
    ignores_difficult: bool = False
    beyond_image: BeyondImage = "cut"
    shards: tuple[str, ...] = ()
    rows: np.ndarray | None = None
    relabel: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Dataset: {self.describe()}>"

    def __len__(self) -> int:
        return len(self.index) if self.rows is None else len(self.rows)

    @property
    def image_ids(self) -> np.ndarray:
        """(I,) int64: the ids of the annotations; 1 to I in sorted order for formats without ids."""
        return self._of_images(self.index.image_ids)

    @property
    def sizes(self) -> np.ndarray:
        """(I, 2) int32 height, width in pixels."""
        return self._of_images(self.index.sizes)

    @property
    def labelled(self) -> np.ndarray:
        """(I,) bool: whether the image is annotated, even if with no object; False where it has no label file."""
        return (self._of_images(self.index.image_flags) & LABELLED) > 0

    @property
    def num_objects(self) -> np.ndarray:
        """(I,) objects of each image, crowds included."""
        return self._of_images(np.diff(self.index.object_offsets))

    def file_name(self, i: int) -> str:
        """The image's name as annotated, relative to `root`."""
        return self.index.name(self.row(i))

    def path(self, i: int) -> Path:
        """Where the image is; in a shard, the path of the shard and the image's name in it."""
        return Path(self.file(i))

    def file(self, i: int) -> str:
        """The same as text: for thousands of images, as making a `Path` takes longer than opening the file."""
        return str(self.image_file(i))

    def image_file(self, i: int) -> ImageFile:
        """What an image is read from: a path as text, or a `Member` of a shard."""
        return image_file(self.index, self.row(i), self.root, self.shards)

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises `ImageError`."""
        from onelook.data.images import decode_image

        return decode_image(self.image_file(i), limit=PIXEL_LIMIT)

    def boxes(self, i: int) -> np.ndarray:
        """(M, 4) float32 xyxy pixels, as annotated."""
        return xywh_to_xyxy(self.index.boxes[self.span(i)]).astype(np.float32)

    def labels(self, i: int) -> np.ndarray:
        """(M,) int64 index into `names`."""
        labels = self.index.labels[self.span(i)].astype(np.int64)
        return labels if self.relabel is None else self.relabel[labels]

    def crowd(self, i: int) -> np.ndarray:
        """(M,) bool: boxes around many objects (COCO `iscrowd`): not trained on, neither hit nor miss in evaluation."""
        return (self.index.object_flags[self.span(i)] & CROWD) > 0

    def difficult(self, i: int) -> np.ndarray:
        """(M,) bool: marked difficult: trained on; in evaluation see `ignored`."""
        return (self.index.object_flags[self.span(i)] & DIFFICULT) > 0

    def ignored(self, i: int) -> np.ndarray:
        """(M,) bool: neither hit nor miss in evaluation: crowds, and in Pascal VOC what is marked difficult."""
        return (self.index.object_flags[self.span(i)] & self.ignored_flags) > 0

    @property
    def ignored_flags(self) -> int:
        """The flags of an object, any of which makes it neither hit nor miss in evaluation."""
        return CROWD | DIFFICULT if self.ignores_difficult else CROWD

    def area(self, i: int) -> np.ndarray:
        """(M,) float64 pixels: the annotated (mask) area, width times height where none is given."""
        return self.index.areas[self.span(i)]

    def image_extra(self, i: int) -> dict[str, Any]:
        """Further fields of an image in its annotation file, such as the number of its video; {} without any."""
        return self.index.extra("image", self.row(i))

    def annotation_ids(self, i: int) -> np.ndarray:
        """(M,) int64."""
        return self.index.annotation_ids[self.span(i)]

    def polygons(self, i: int) -> tuple[tuple[np.ndarray, ...], ...] | None:
        """For every object its outlines, (V, 2) float32 pixels each; None where the split has none at all."""
        if not len(self.index.lazy("ring_offsets")):
            return None
        span = self.span(i)
        rings = (self.index.rings(row) for row in range(span.start, span.stop))
        return tuple(tuple(ring.astype(np.float32) for ring in one if len(ring) > 2) for one in rings)

    def sample(self, i: int) -> Sample:
        """The image with the objects that are trained on: no crowds, boxes cut to the image, none without area."""
        image = self.image(i)
        boxes, labels, polygons, _ = self.training_objects(i)
        return Sample(image, boxes, labels, polygons)

    def training_objects(
        self, i: int, outlines: bool = True
    ) -> tuple[np.ndarray, np.ndarray, tuple[tuple[np.ndarray, ...], ...] | None, tuple[int, int]]:
        """(M, 4) float32 boxes, (M,) labels and outlines of `sample`, and the image's (height, width), without pixels.

        outlines: whether to include the outlines; otherwise None.
        """
        index, row = self.index, self.row(i)
        span, (height, width) = slice(*index.object_offsets[row : row + 2].tolist()), index.sizes[row].tolist()
        boxes, kept = clean_boxes(index.boxes[span], height, width, self.beyond_image)
        flags = index.object_flags[span]
        if any(flags.tobytes()):  # rare
            kept &= (flags & CROWD) == 0
        polygons = self.polygons(i) if outlines else None
        if polygons is not None:
            if self.beyond_image == "cut" and _any_reaches_beyond(polygons, height, width):
                polygons = tuple(_cut_outlines(rings, height, width) for rings in polygons)
            polygons = tuple(outline for outline, keep in zip(polygons, kept.tolist()) if keep)
        labels = index.labels[span]
        if not kept.all():
            boxes, labels = boxes[kept], labels[kept]
        labels = labels.astype(np.int64) if self.relabel is None else self.relabel[labels]
        return boxes.astype(np.float32), labels, polygons, (height, width)

    def coco_ground_truth(self) -> dict[str, Any]:
        """The split as a COCO dictionary for an evaluator: original ids, boxes and areas.

        A box that reaches beyond its image by more than a pixel is cut to it, as it is trained on; one that lies
        wholly outside or has no area is left out. What is `ignored` is marked as a crowd, as the protocol marks such
        objects.
        """
        images, annotations = [], []
        for i in range(len(self)):
            row = self.row(i)
            height, width = self.index.sizes[row].tolist()
            image_id = int(self.index.image_ids[row])
            images.append({"id": image_id, "file_name": self.index.name(row), "height": height, "width": width})
            annotations += self._annotations(i, image_id, height, width)
        categories = [{"id": number, "name": name} for number, name in zip(self.category_ids, self.names)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _annotations(self, i: int, image_id: int, height: int, width: int) -> list[dict[str, Any]]:
        span, found = self.span(i), []
        boxes, areas, kept = judged_boxes(self.index.boxes[span], self.area(i), height, width)
        ignored, difficult = self.ignored(i), self.difficult(i)
        columns = (self.annotation_ids(i), self.labels(i), boxes, areas, ignored, difficult, kept)
        for number, label, box, area, ignore, is_difficult, keep in zip(*(column.tolist() for column in columns)):
            if not keep:
                continue
            entry = {
                "id": number,
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(ignore),
            }
            found.append({**entry, "ignore": 1} if is_difficult else entry)
        return found

    def view(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """The same data set with only these images, in this order; rows may repeat."""
        chosen = np.asarray(rows)
        if chosen.ndim != 1 or (len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self))):
            raise IndexError(f"rows must be a list of numbers from 0 to {len(self) - 1}")
        chosen = chosen.astype(np.int64)
        return replace(self, rows=chosen if self.rows is None else self.rows[chosen])

    def with_names(self, names: Sequence[str]) -> Dataset:
        """The same images with labels that index `names`: classes are matched by name, whatever their order.

        Raises `DataError` naming both lists where this data set has a class that is not in `names`.
        A class of `names` that is absent here gets an unused category id.
        """
        expected = tuple(names)
        if expected == self.names:
            return self
        missing = [name for name in self.names if name not in expected]
        if missing:
            raise DataError(
                f"The classes do not agree: '{self.described_by}' (split '{self.split}') has {_listed(self.names)}, "
                f"but {_listed(expected)} were expected.",
                f"Not expected: {_listed(missing)}. Rename the classes, or train on a set that has them.",
            )
        relabel = np.array([expected.index(name) for name in self.names], np.int64)
        own, spare = dict(zip(self.names, self.category_ids)), max(self.category_ids, default=0)
        ids = []
        for name in expected:
            spare += name not in own
            ids.append(own.get(name, spare))
        shared = [name for name in expected if name in self.names]
        how = "in another order" if shared != list(self.names) else "not all"
        note = f"the split '{self.split}' lists its classes differently ({how}), so they are matched by name"
        return replace(
            self,
            names=expected,
            notes=(*self.notes, note),
            category_ids=tuple(ids),
            relabel=relabel if self.relabel is None else relabel[self.relabel],
        )

    def describe(self, *, notes: bool = True) -> str:
        """One line: format, split, counts, and, unless they stand elsewhere, the notes."""
        text = f"{self.format_title} '{self.described_by}', split '{self.split}': {len(self)} images, "
        boxes = f"{int(self.num_objects.sum())} boxes, " if self.has_boxes else ""
        text += f"{boxes}{len(self.names)} classes"
        return "; ".join((text, *self.notes)) if notes else text

    def identity(self) -> dict[str, Any]:
        """A summary that changes with the data, for a resumed training to compare: split, number of images, digest."""
        found = hashlib.blake2b(json.dumps(self.names).encode(), digest_size=16)
        index = self.index
        arrays = (index.name_bytes, index.sizes, index.object_offsets, index.boxes, index.labels, index.object_flags)
        for array in (*arrays, self.rows, self.relabel):
            found.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return {"split": self.split, "images": len(self), "digest": found.hexdigest()}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.index.path is not None:
            state["index"] = (self.index.path, self.index.digest)
        else:
            arrays = {name: np.array(array) for name, array in self.index._arrays.items()}
            state["index"] = (arrays, self.index.meta)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        first, second = state["index"]
        if isinstance(first, Path):
            try:
                index = reopen_index(first, second)
            except (OSError, DamagedIndexError) as error:
                raise DataError(f"The index of '{state['described_by']}' changed: {error}", "Start again.") from error
        else:
            index = Index(first, second, None, "")
        self.__dict__.update({**state, "index": index})

    def row(self, i: int) -> int:
        """The image's row in the index."""
        row = range(len(self))[i]
        return row if self.rows is None else int(self.rows[row])

    def span(self, i: int) -> slice:
        """Where the image's objects are in the arrays of the index."""
        row = self.row(i)
        return slice(int(self.index.object_offsets[row]), int(self.index.object_offsets[row + 1]))

    def _of_images(self, values: np.ndarray) -> np.ndarray:
        return values if self.rows is None else values[self.rows]


def _any_reaches_beyond(polygons: Sequence[tuple[np.ndarray, ...]], height: int, width: int) -> bool:
    rings = [ring for one in polygons for ring in one]
    points = np.concatenate(rings) if rings else np.zeros((0, 2))
    return len(points) > 0 and bool(np.min(points) < 0 or (np.max(points, axis=0) > (width, height)).any())


def _cut_outlines(rings: tuple[np.ndarray, ...], height: int, width: int) -> tuple[np.ndarray, ...]:
    cut = (cut_outline(ring.astype(np.float64), height, width).astype(np.float32) for ring in rings)
    return tuple(ring for ring in cut if len(ring) > 2)


def judged_boxes(
    boxes: np.ndarray, areas: np.ndarray, height: int | np.ndarray, width: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes, areas, kept (M,) bool) that an evaluation compares with.

    A box (left, top, width, height) that reaches beyond its image by more than a pixel is cut to it; kept are those
    that are trained on: those with an area inside their image.
    """
    corners, kept = clean_boxes(boxes, height, width)
    beyond = reach_beyond(boxes, height, width)
    if not beyond.any():
        return boxes, areas, kept
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 0.0)
    cut = np.where(beyond[:, None], np.concatenate((corners[:, :2], sides), axis=1), boxes)
    return cut, np.where(beyond, np.minimum(areas, sides.prod(axis=1)), areas), kept


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"[{text}]"
