"""Writes Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from onelook.data.formats.base import Destination, Losses, num_mask_areas, split_folder
from onelook.data.formats.bounded_xml import printable
from onelook.data.index import CROWD, DIFFICULT, OCCLUDED, TRUNCATED
from onelook.data.split import Dataset


class VocWriter:
    """Writes `JPEGImages`, `Annotations`, `ImageSets/Main/{split}.txt`, and the class names in two files.

    Without `labels.txt` the order of the classes would be lost; `labelmap.txt` is for other programs. Corners are the
    reader's plus 1; fractions of pixels are written where there are any.
    """

    one_file_an_image = True

    def __init__(self) -> None:
        self._splits: dict[str, list[str]] = {}

    def destination(self, split: str, name: str) -> Destination:
        """All images in one folder."""
        return Destination("JPEGImages", name)

    def write(self, out: Path, split: str, dataset: Dataset, places: Sequence[Destination], losses: Losses) -> None:
        """Writes the list of one split and its annotations; none for an image that is not labelled."""
        ids, labelled = [], dataset.labelled
        for i, place in enumerate(places):
            ids.append(str(Path(place.name).with_suffix("")))
            if labelled[i]:
                path = (out / "Annotations" / place.name).with_suffix(".xml")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_annotation(dataset, i, place.name, losses), encoding="utf-8")
        (out / "Annotations").mkdir(exist_ok=True)
        lists = out / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split_folder(split)}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
        losses.add("areas of masks", num_mask_areas(dataset))
        if not dataset.ignores_difficult:
            losses.add(
                "that difficult objects count (evaluation leaves them out)",
                int(((dataset.index.object_flags & DIFFICULT) > 0).sum()),
            )
        if dataset.has_ids:
            losses.add("image and annotation ids (images are numbered in the order of their names)", len(dataset))
            losses.set("category ids (classes are numbered from 0)", len(dataset.names))

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes the list of classes, and again as CVAT and Datumaro read it, unless a name has its separator."""
        shown = [printable(name) for name in names]
        if shown:
            (out / "labels.txt").write_text("".join(f"{name}\n" for name in shown), encoding="utf-8")
        if shown and not any(":" in name for name in shown):
            rows = "".join(f"{name}:::\n" for name in shown)
            (out / "labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{rows}", encoding="utf-8")


def _annotation(dataset: Dataset, i: int, name: str, losses: Losses) -> str:
    height, width = dataset.sizes[i].tolist()
    lines = [
        "<annotation>",
        f"  <filename>{_text(name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    index, span, labels = dataset.index, dataset.span(i), dataset.labels(i).tolist()
    for thing, label in zip(range(span.start, span.stop), labels):
        flags = int(index.object_flags[thing])
        pose = index.extra("object", thing).get("pose", "Unspecified")
        left, top, w, h = index.boxes[thing].tolist()
        sides = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, left + w + 1, top + h + 1))
        box = "".join(f"<{side}>{_decimal(value)}</{side}>" for side, value in sides)
        lines += [
            "  <object>",
            f"    <name>{_text(dataset.names[label])}</name>",
            f"    <pose>{_text(str(pose))}</pose>",
            f"    <truncated>{int(flags & TRUNCATED > 0)}</truncated>",
            *(["    <occluded>1</occluded>"] if flags & OCCLUDED else []),
            f"    <difficult>{int(flags & (DIFFICULT | CROWD) > 0)}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
        losses.add("crowds (written as difficult objects, which are trained on)", int(flags & CROWD > 0))
        losses.add(
            "outlines (boxes are kept)", int(bool(index.rings(thing)) or "segmentation" in index.extra("object", thing))
        )
    return "\n".join([*lines, "</annotation>", ""])


def _decimal(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _text(text: str) -> str:
    return escape(printable(text), quote=False)
