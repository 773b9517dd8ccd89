"""Where the files of a COCO data set are."""

from __future__ import annotations

import re
from pathlib import Path

from onelook.data.formats.base import Part, Source, named_splits, split_word
from onelook.errors import DataError

_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")
_ROBOFLOW = "_annotations.coco.json"
PEEK = 1 << 16


def coco_file(path: Path) -> Source:
    """The data set of one annotation file that the user named."""
    name = path.parent.name if path.name == _ROBOFLOW and split_word(path.parent.name) else path.stem
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return Source("coco", root, path, named_splits({name: Part(path, _image_folders(path, root))}))


def coco_folder(root: Path) -> Source | None:
    """COCO in a folder: `annotations/*.json`, else `{split}/*.json`, else `*.json`; None where there is none."""
    if not (files := _annotation_files(root)):
        return None
    parts = {}
    for path in files:
        inside = path.parent not in (root, root / "annotations")
        # Here `instances_` is the format's word, whatever split follows: kept, a conversion would write it twice.
        split = path.parent.name if inside else path.stem.removeprefix("instances_") or path.stem
        parts[split] = Part(path, _image_folders(path, root))
    if len(parts) < len(files):
        repeated = ", ".join(f"'{path.relative_to(root)}'" for path in files)
        raise DataError(f"'{root}' has several annotation files for one split: {repeated}.", "Give one of the files.")
    return Source("coco", root, root, named_splits(parts))


def _annotation_files(root: Path) -> list[Path]:
    for pattern in ("annotations/*.json", f"*/{_ROBOFLOW}", _ROBOFLOW, "*/*.json", "*.json"):
        files = [path for path in sorted(root.glob(pattern)) if path.is_file() and not path.name.startswith(".")]
        instances = [path for path in files if path.name.startswith("instances_")]
        if instances:
            return instances  # a damaged one is to be named, not lost
        files = [path for path in files if not path.name.startswith(_OTHER_TASKS)] or files
        if pattern == "annotations/*.json" and files:
            return [path for path in files if looks_like_coco(path)] or files
        files = [path for path in files if looks_like_coco(path) or path.name == _ROBOFLOW]
        if files:
            return files
    return []


def looks_like_coco(path: Path) -> bool:
    """Whether the first bytes of a file are those of a JSON object with one of the keys of the format."""
    try:
        with open(path, "rb") as file:
            start = file.read(PEEK).replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    return bool(re.match(rb'(\xff\xfe|\xfe\xff)?\s*\{\s*"', start)) and bool(
        re.search(rb'"(images|annotations|categories|licenses)"\s*:', start)
    )


def _image_folders(path: Path, root: Path) -> tuple[Path, ...]:
    """Where the images may be, most likely first."""
    word = split_word(path.stem) or split_word(path.parent.name) or ""
    stem = re.sub(r"^instances_", "", path.stem)
    names = [
        name for name in dict.fromkeys((stem, word, f"{word}2017", f"{word}2014", "valid" * (word == "val"))) if name
    ]
    folders = [root / name for name in names]
    folders += [root / "images" / name for name in names] + [root / name / "images" for name in names]
    folders += [path.parent, path.parent / "images", path.parent / "data", root / "images", root / "data"]
    folders += [root / "JPEGImages", root]
    return tuple(dict.fromkeys(folders))
