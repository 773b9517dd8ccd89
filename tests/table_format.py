"""A data format as a contributor would add it: one file, whose value then stands in the tuple of formats.

`{split}.table` with the columns image, class, left, top, width, height, beside `{split}/` with the images.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onelook.data.building import Images, Objects, lay_out
from onelook.data.formats.base import Arrays, Destination, Format, Losses, Part, ReadSplit, Source, split_folder
from onelook.data.index import LABELLED
from onelook.data.paths import images_below, read_text
from onelook.data.problems import Problems
from onelook.data.sizes import image_size
from onelook.data.split import Dataset
from onelook.data.split_names import named_splits
from onelook.reporter import Progress

_LIMIT = 1 << 24
_COLUMNS = ("image", "class", "left", "top", "width", "height")


def find(root: Path) -> Source | None:
    files = {path.stem: path for path in sorted(root.glob("*.table"))}
    parts = {stem: Part(path, (root / stem,)) for stem, path in files.items()}
    return Source(TABLE, root, root, named_splits(parts)) if parts else None


def _rows(source: Source, split: str) -> list[list[str]]:
    path = source.parts[split].annotations
    assert path is not None
    return list(csv.reader(read_text(path, _LIMIT).splitlines()))[1:]


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    part, images, objects, labels = source.parts[split], Images(), Objects(), []
    names = sorted({row[1] for row in _rows(source, split)})
    places = images_below(part.images[0])
    for number, name in enumerate(places):
        images.add(number + 1, name, image_size(part.images[0] / name), flags=LABELLED)
        progress(number + 1, len(places))
    rows = []
    for line, (image, name, *numbers) in enumerate(_rows(source, split), 2):
        if image not in places:
            message = f"There is no image '{image}'."
            problems.error("unknown-image", message, "Add it.", file=str(part.annotations), line=line)
            continue
        box = [float(value) for value in numbers]
        objects.add(len(objects) + 1, 0, 0, box, area=box[2] * box[3], line=line)
        labels.append(names.index(name))
        rows.append(places.index(image))
    arrays = lay_out(images, objects, np.array(labels, np.int64), np.array(rows, np.int64))
    return arrays, {"names": names, "category_ids": list(range(len(names)))}


class TableWriter:
    one_file_an_image = False

    def destination(self, split: str, name: str) -> Destination:
        return Destination(split_folder(split), name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        with open(out / f"{split_folder(split)}.table", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for i, place in enumerate(places):
                losses.add("difficult marks", int(dataset.difficult(i).sum()))
                for label, box in zip(dataset.labels(i).tolist(), dataset.index.boxes[dataset.span(i)].tolist()):
                    rows.writerow((place.name, dataset.names[label], *box))

    def finish(self, out: Path, names: Sequence[str]) -> None:
        pass


def _check(source: Source, read: Sequence[ReadSplit], problems: Problems) -> None:
    for path in sorted(source.root.glob("*.table.bak")):
        problems.warning("backup", "This file is not used.", "Delete it.", file=str(path))


TABLE = Format(
    name="table",
    title="Table",
    layout="{split}.table beside {split}/",
    find=find,
    files_of=lambda source, split: [(split, str(source.parts[split].annotations))],
    read=_read,
    image_root=lambda source, split, index: source.parts[split].images[0],
    annotation_file=lambda source, split, path, name: str(source.parts[split].annotations),
    write=TableWriter,
    check=_check,
)
