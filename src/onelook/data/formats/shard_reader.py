"""Reads the samples of shards into an index: images with annotations in JSON (as COCO's entries) or YOLO text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from onelook.data import index as bits
from onelook.data.building import lay_out
from onelook.data.class_names import CLASS_LIMIT
from onelook.data.coco_entries import NAME_LIMIT
from onelook.data.coco_file import CocoFile
from onelook.data.formats.base import Arrays, Source
from onelook.data.formats.tar_samples import TarSample, read_samples
from onelook.data.formats.yolo_labels import Labels
from onelook.data.jsonstream import integer
from onelook.data.members import Member
from onelook.data.problems import Problems
from onelook.devices import num_cores
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress

_REMEDY = "Correct the member, or write the shards anew."
_OTHER_LAYOUTS = ("boxes", "bbox", "bboxes", "objects", "labels", "segments", "instances")


def read_split(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of a split's index: images in the order of the shards, and in them of their members."""
    shards, split_reader = source.parts[split].shards, SampleReader(source, problems)
    for number, samples in enumerate(_read_all(shards)):
        if isinstance(samples, DataError):
            problems.error("shard-unreadable", samples.message, samples.remedy or _REMEDY, file=shards[number])
        else:
            for sample in samples:
                split_reader.add(number, sample)
        progress(number + 1, len(shards))
    return split_reader.arrays()


def _read_all(shards: Sequence[str]) -> Iterator[list[TarSample] | DataError]:
    """The samples of each shard, or its error, in order; a few shards are read at a time."""

    def one(shard: str) -> list[TarSample] | DataError:
        try:
            return read_samples(shard)
        except DataError as error:
            return error

    together = min(8, 2 * num_cores())
    with ThreadPoolExecutor(together) as pool:
        for start in range(0, len(shards), together):
            yield from pool.map(one, shards[start : start + together])


class SampleReader:
    """The samples of a split while they are read: their values go into flat arrays, their faults into `problems`."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self._problems, self._classes = problems, _Classes(source)
        self._coco = CocoFile("", problems)
        self._rows = Labels(None if source.names is None else len(source.names), None, problems)
        self._rows.objects = self._coco.objects
        self._places: list[tuple[int, int, int]] = []
        self._ids: list[int | None] = []
        self._unlabelled = 0
        self._own_ids = True  # whether every object has an id of its own

    def add(self, shard: int, sample: TarSample) -> None:
        """Adds one sample of a tar file."""
        is_text = sample.annotation.lower().endswith("txt")
        content = self._content(sample) if sample.annotation.lower().endswith("json") else {}
        if content is None:
            return
        content = {"annotations": []} if is_text else content
        added = self.add_content(shard, sample.image, sample.size, content, sample.annotation or str(sample.image))
        if added and is_text:
            row = len(self._coco.images) - 1
            self._add_rows(row, sample, (self._coco.images.heights[row], self._coco.images.widths[row]))

    def add_content(
        self, shard: int, image: Member, size: tuple[int, int] | ImageError, content: dict[str, Any], place: str
    ) -> bool:
        """Adds an image; False where its fault is reported instead.

        size: (height, width) of the image, or why it cannot be told.  content: its `id`, `width`, `height` and further
        fields, and `annotations`, without which it counts as not annotated.  place: of it, for messages.
        """
        images, row = self._coco.images, len(self._coco.images)
        self._coco.source = place
        fields = {key: value for key, value in content.items() if key not in ("annotations", "file_name")}
        self._coco.add_entry("images", fields | {"id": row, "file_name": image.name}, row, 0)
        if len(images) == row:
            return False
        self._places.append((shard, image.start, image.size))
        self._ids.append(integer(content.get("id")))
        self._measure(row, image, size)
        labelled = "annotations" in content
        self._unlabelled += not labelled
        images.flags[row] |= bits.LABELLED if labelled else 0
        if labelled:
            self._add_objects(row, content["annotations"])
        return True

    def _content(self, sample: TarSample) -> dict[str, Any] | None:
        """The object in a JSON member; None where its fault is reported."""
        place = {"file": sample.annotation}
        try:
            content = msgspec.json.decode(sample.text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._problems.error("json", f"not valid JSON: {error}.", _REMEDY, **place)
            return None
        if not isinstance(content, dict):
            self._problems.error("not-an-object", "the JSON must be an object.", _REMEDY, **place)
            return None
        other = next((key for key in _OTHER_LAYOUTS if key in content and "annotations" not in content), None)
        if other is not None:
            message = f"there is '{other}', but no 'annotations', so the boxes are in a layout that is not known."
            remedy = "Write them as 'annotations': [{'bbox': [x, y, width, height], 'category': 'name'}, ...]."
            self._problems.error("layout", message, remedy, **place)
            return None
        return content

    def _measure(self, row: int, image: Member, size: tuple[int, int] | ImageError) -> None:
        """Compares the size in the image's header with the annotated one, which counts where there is one."""
        images = self._coco.images
        annotated = images.heights[row], images.widths[row]
        if isinstance(size, ImageError):
            if not all(annotated):
                self._problems.error("image-unreadable", size.message, size.remedy, file=str(image))
            return
        if not all(annotated):
            images.heights[row], images.widths[row] = size
        if not all(annotated) or annotated == size:
            images.flags[row] |= bits.MEASURED

    def _add_rows(self, row: int, sample: TarSample, size: tuple[int, int]) -> None:
        objects, before = self._coco.objects, len(self._coco.objects)
        try:
            text = sample.text.decode("utf-8-sig")
        except UnicodeDecodeError:
            self._problems.error("label-unreadable", "it is not a text in UTF-8.", _REMEDY, file=sample.annotation)
            return
        self._rows.parse(text, sample.annotation, row, size)
        self._own_ids = False
        for thing in range(before, len(objects)):
            objects.categories[thing] = self._classes.of_number(objects.categories[thing])

    def _add_objects(self, row: int, entries: Any) -> None:
        place: dict[str, Any] = {"file": self._coco.source}
        if not isinstance(entries, list):
            self._problems.error("not-a-list", "'annotations' must be a list.", _REMEDY, **place)
            return
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                message = f"annotations[{position}] must be an object."
                self._problems.error("not-an-object", message, _REMEDY, **place)
                continue
            label = self._classes.of_entry(entry)
            if isinstance(label, str):
                self._problems.error("unknown-category", f"annotations[{position}]: {label}.", _REMEDY, **place)
                continue
            self._own_ids &= "id" in entry
            fields = {key: value for key, value in entry.items() if key != "category"}
            number = entry.get("id", len(self._coco.objects) + 1)
            self._coco.add_entry(
                "annotations", fields | {"id": number, "image_id": row, "category_id": label}, position, 0
            )

    def arrays(self) -> Arrays:
        """The arrays of the index, and its meta."""
        images, objects = self._coco.images, self._coco.objects
        names, ids, order = self._classes.sorted()
        labels = order[np.array(objects.categories, np.int64)] if len(objects) else np.zeros(0, np.int64)
        arrays = lay_out(images, objects, labels, np.array(objects.image_ids, np.int64))
        arrays["member_places"] = np.array(self._places, np.int64).reshape(-1, 3)
        notes = self._rows.conclude()
        if self._unlabelled:
            notes.append(f"images without annotations, which count as background: {self._unlabelled}")
        known = [number for number in self._ids if number is not None]
        if len(known) == len(self._ids) == len(set(known)):
            arrays["image_ids"] = np.array(known, np.int64)
        else:
            arrays["image_ids"] = np.arange(1, len(images) + 1)
        numbers = arrays["annotation_ids"]
        if not self._own_ids or len(np.unique(numbers)) < len(numbers):
            arrays["annotation_ids"] = np.arange(1, len(objects) + 1)
        meta = {"names": names, "category_ids": ids, "notes": notes}
        return arrays, meta | ({"category_extras": self._classes.extras} if self._classes.extras else {})


class _Classes:
    """The classes of a split: those that a file beside the shards names, or those that annotations name."""

    def __init__(self, source: Source) -> None:
        self._fixed = source.names is not None
        self._names = list(source.names or ())
        self._ids: list[int | None] = list(source.category_ids or range(len(self._names)))
        self.extras = [dict(extra) for extra in source.category_extras]
        self._by_name = {name: label for label, name in enumerate(self._names)}
        self._by_id = {number: label for label, number in enumerate(self._ids)}

    def of_entry(self, entry: dict[str, Any]) -> int | str:
        """The label of an annotation's 'category' (name) or 'category_id'; or what is wrong with them, as text."""
        name, number = entry.get("category"), integer(entry.get("category_id"))
        if name is None and number is not None:
            if self._fixed:
                label = self._by_id.get(number)
                return label if label is not None else f"the category {number} is not in the list of classes"
            return self.of_number(number)
        if not isinstance(name, str) or not name.strip() or len(name) > NAME_LIMIT:
            return "it needs a 'category' (a name) or a 'category_id' (a number)"
        if name in self._by_name:
            return self._by_name[name]
        if self._fixed:
            return f"the class '{name[:60]}' is not in the list of classes"
        return self._new(name, number)

    def of_number(self, number: int) -> int:
        """The label of a class that has a number; it is its name as well where no list names it."""
        if self._fixed:
            return number
        label = self._by_id.get(number)
        return self._new(str(number), number) if label is None else label

    def _new(self, name: str, number: int | None) -> int:
        if len(self._names) >= CLASS_LIMIT:
            raise DataError(f"The shards name more than {CLASS_LIMIT:,} classes.", "Check the annotations.")
        label = self._by_name.setdefault(name, len(self._names))
        if label == len(self._names):
            self._names.append(name)
            self._ids.append(number)
        if number is not None:
            self._by_id.setdefault(number, label)
        return label

    def sorted(self) -> tuple[list[str], list[int], np.ndarray]:
        """(names, ids, place of each label in them): ordered by id where every class has one, else by name."""
        ids = [number for number in self._ids if number is not None]
        if self._fixed:
            return self._names, ids, np.arange(len(self._names))
        have_ids = len(ids) == len(self._ids) == len(set(ids))
        order = sorted(range(len(self._names)), key=(lambda i: ids[i]) if have_ids else (lambda i: self._names[i]))
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return [self._names[i] for i in order], [ids[i] for i in order] if have_ids else list(range(len(order))), places
