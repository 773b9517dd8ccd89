"""What lies on disk: which format a data set has, which splits, and where their files are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from onelook.errors import DataError, did_you_mean

Format = Literal["coco", "yolo", "voc", "classes"]
WHOLE = "all"
"""The split of a data set that is not divided."""

CLASS_LIMIT = 65_536
"""The most classes a data set may have; three times those of the largest public one (ImageNet-21k)."""

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
    "minival": "minival",
}
FORMATS = {"coco": "COCO JSON", "yolo": "YOLO text", "voc": "Pascal VOC", "classes": "class folders"}


@dataclass(frozen=True)
class Part:
    """One split: its annotation file (COCO JSON, list of VOC ids) where there is one, and where its images are.

    images: COCO: folders to try.  YOLO: folders of images and `.txt` lists of them.  VOC: nothing.  Class folders: the
    folder that holds them.
    """

    annotations: Path | None = None
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Source:
    """One data set: `parts` by split name. described_by: what the user named (a folder, or a YAML or JSON file)."""

    format: Format
    root: Path
    described_by: Path
    parts: Mapping[str, Part]
    names: tuple[str, ...] | None = None
    keypoint_values: int = 0
    notes: tuple[str, ...] = field(default=())

    def resolve(self, split: str) -> str:
        """The key in `parts` for a split's name: `valid`, `val` and `val2017` are one, an undivided set is any.

        Raises `DataError` naming the splits that exist.
        """
        if split in self.parts:
            return split
        alike = [name for name in self.parts if split_word(name) == split_word(split) is not None]
        if len(alike) == 1:
            return alike[0]
        if tuple(self.parts) == (WHOLE,) and split_word(split) in (*_WORDS.values(), WHOLE):
            return WHOLE
        known = ", ".join(f"'{name}'" for name in self.parts) or "none"
        raise DataError(
            f"The data set '{self.described_by}' ({FORMATS[self.format]}) has no split '{split}'."
            f"{did_you_mean(split, self.parts)}",
            f"It has: {known}.",
        )


def split_word(text: str) -> str | None:
    """The split a file's or folder's name speaks of (`instances_val2017` -> `val`), or None."""
    words = re.findall(r"[a-z]+", text.lower())
    found = [_WORDS[word] for word in words if word in _WORDS]
    return found[-1] if found else (WHOLE if text == WHOLE else None)


def named_splits(items: Mapping[str, Part]) -> dict[str, Part]:
    """The parts under short names (`val` for `instances_val2017`) where that leaves them apart; train, val, test first.

    A single part that speaks of no split is the whole data set.
    """
    if len(items) == 1 and split_word(next(iter(items))) is None:
        return {WHOLE: next(iter(items.values()))}
    words = [split_word(name) for name in items]
    short = {name: word if word and words.count(word) == 1 else name for name, word in zip(items, words)}
    order = list(dict.fromkeys(_WORDS.values()))
    ranked = sorted(items, key=lambda name: (order.index(short[name]) if short[name] in order else 99, name))
    return {short[name]: items[name] for name in ranked}


def find_source(data: str | Path) -> Source:
    """Finds out by content what the data set at this place is.

    data: a folder, or a YAML or JSON file. Raises `DataError` where it is none, saying what was looked for.
    """
    from onelook.data.class_folders import class_folder
    from onelook.data.coco_layout import coco_file, coco_folder
    from onelook.data.voc_layout import voc_folder
    from onelook.data.yolo_layout import described_in_yaml, yolo_folder, yolo_yaml

    path = Path(data).expanduser()
    try:
        path = path.absolute()
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise DataError(f"'{data}' is not a usable path: {error}.", "Give a folder, or a YAML or JSON file.") from error
    if not exists:
        raise DataError(f"The data set '{data}' does not exist.", "Give a folder, or a YAML or JSON file.")
    if not is_folder:
        suffix = path.suffix.lower()
        if suffix == ".json":
            return coco_file(path)
        if suffix in (".yaml", ".yml"):
            return yolo_yaml(path)
        raise DataError(f"'{data}' is neither a folder nor a YAML or JSON file.", "Give one that describes a data set.")
    described = described_in_yaml(path)
    found = [described] if described else [find(path) for find in (coco_folder, voc_folder, yolo_folder)]
    sources = [source for source in found if source is not None]
    if not sources and (classes := class_folder(path)) is not None:
        return classes
    if not sources:
        raise DataError(
            f"No data set was recognised in '{data}'.",
            "Expected COCO (annotations/instances_{split}.json beside {split}/, or {split}/_annotations.coco.json), "
            "YOLO (data.yaml, images/{split} + labels/{split}, or {split}/images + {split}/labels), or Pascal VOC "
            "(JPEGImages, Annotations, ImageSets/Main/{split}.txt); or, for a classifier, a folder for each class.",
        )
    if len(sources) > 1:
        others = " and ".join(FORMATS[source.format] for source in sources[1:])
        note = f"also holds {others} annotations, which are not used; name their file (YAML or JSON) to use them"
        first = sources[0]
        return Source(
            first.format,
            first.root,
            first.described_by,
            first.parts,
            first.names,
            first.keypoint_values,
            (*first.notes, note),
        )
    return sources[0]
