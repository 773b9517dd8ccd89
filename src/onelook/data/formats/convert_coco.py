"""Writes COCO JSON, which can hold everything that the readers know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from onelook.data.convert import Losses, Place, named
from onelook.data.dataset import Dataset
from onelook.data.index import CROWD, DIFFICULT, OCCLUDED, TRUNCATED


class CocoWriter:
    """`annotations/instances_{split}.json` beside `{split}/`."""

    def place(self, split: str, name: str) -> Place:
        """Images keep their names under the split's folder."""
        return Place(named(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Place], losses: Losses) -> None:
        """Writes the annotation file of one split, entry by entry."""
        (out / "annotations").mkdir(exist_ok=True)
        losses.add(
            "the difference between unlabelled images and images without objects",
            int((~dataset.labelled).sum()) if dataset.labelled.any() else 0,
        )
        rest = dataset.index.meta.get("rest", {})
        with open(out / "annotations" / f"instances_{named(split)}.json", "w", encoding="utf-8") as file:
            file.write("{")
            for key, value in rest.items():
                file.write(f"{json.dumps(key)}: {json.dumps(value)},\n")
            _list(file, "images", _images(dataset, places))
            file.write(",\n")
            if dataset.labelled.any() or not len(dataset):
                _list(file, "annotations", _annotations(dataset))
                file.write(",\n")
            _list(file, "categories", _categories(dataset))
            file.write("}\n")

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Nothing is common to the splits."""


def _list(file: TextIO, key: str, entries: Iterator[dict[str, Any]]) -> None:
    file.write(f'"{key}": [')
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + json.dumps(entry))
    file.write("]")


def _images(dataset: Dataset, places: Sequence[Place]) -> Iterator[dict[str, Any]]:
    ids, sizes = dataset.image_ids, dataset.sizes
    for i, place in enumerate(places):
        height, width = sizes[i].tolist()
        extra = dataset.index.extra("image", dataset.row(i))
        yield {"id": int(ids[i]), "file_name": place.name, "height": height, "width": width, **extra}


def _annotations(dataset: Dataset) -> Iterator[dict[str, Any]]:
    index = dataset.index
    for i in range(len(dataset)):
        image_id, labels, span = int(dataset.image_ids[i]), dataset.labels(i).tolist(), dataset.span(i)
        for thing, label in zip(range(span.start, span.stop), labels):
            flags = int(index.object_flags[thing])
            entry = {
                "id": int(index.annotation_ids[thing]),
                "image_id": image_id,
                "category_id": dataset.category_ids[label],
                "bbox": index.boxes[thing].tolist(),
                "area": float(index.areas[thing]),
                "iscrowd": int(flags & CROWD > 0),
            }
            rings = [ring.ravel().tolist() for ring in index.rings(thing)]
            if rings:
                entry["segmentation"] = rings
            if flags & DIFFICULT:
                entry |= {"difficult": 1, "ignore": 1}
            if flags & TRUNCATED:
                entry["truncated"] = 1
            if flags & OCCLUDED:
                entry["occluded"] = 1
            yield entry | index.extra("object", thing)


def _categories(dataset: Dataset) -> Iterator[dict[str, Any]]:
    meta = dataset.index.meta
    extras = dict(zip(meta["names"], meta.get("category_extras", ())))
    for number, name in zip(dataset.category_ids, dataset.names):
        yield {"id": number, "name": name, **extras.get(name, {})}
