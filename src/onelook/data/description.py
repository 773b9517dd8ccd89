"""YAML files that describe a data set by the keys of the field: path, train, val, test, names, nc, kpt_shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelook.config import read_yaml
from onelook.data.edit_file import is_edit_file
from onelook.data.paths import entries_ending, read_text
from onelook.data.split_names import split_word
from onelook.errors import ConfigError, DataError

_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SETTINGS = frozenset(("path", "names", "nc", "download", "kpt_shape", "flip_idx", "roboflow"))
_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class Description:
    """What a YAML file contains. places: of each split, its folders and files.  content: all keys, as read."""

    path: Path
    root: Path
    places: Mapping[str, tuple[Path, ...]]
    content: Mapping[str, Any]

    @property
    def is_json(self) -> bool:
        """Whether every split is a JSON file, as for COCO annotations."""
        return all(place.suffix == ".json" for places in self.places.values() for place in places)


def is_yaml(path: Path) -> bool:
    """Whether a file's name ends as that of a YAML file."""
    return path.suffix.lower() in (".yaml", ".yml")


def description_in(root: Path) -> Path | None:
    """The YAML file that describes a folder: `data.yaml`, else its only YAML file if that names a split; else None."""
    for name in _USUAL:
        if os.path.isfile(f"{root}/{name}"):
            return root / name
    files = [path for path in entries_ending(root, ".yaml", ".yml") if path.suffix and path.is_file()]
    others = [path for path in files if not is_edit_file(path)]  # those are used where they are named
    return others[0] if len(others) == 1 and _names_a_split(others[0]) else None


def _names_a_split(path: Path) -> bool:
    try:
        lines = read_text(path, _LIMIT).splitlines()
    except DataError:
        return False
    return any(line.split(":")[0].strip() in _SPLITS for line in lines if ":" in line)


def read_description(path: Path) -> Description:
    """Reads a YAML file that describes a data set.

    A split is a folder, a `.txt` list of images, a `.json` file, or a list of these. What a file asks to be downloaded
    or run is ignored. Raises `DataError`.
    """
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise DataError(error.message, error.remedy or "Correct the file.") from error
    content = content if isinstance(content, dict) else {}
    given = {_SPLITS.get(str(key), str(key)): value for key, value in content.items() if _is_split(key, value, path)}
    if not given:
        raise DataError(f"'{path}' names no split.", "It needs 'train', 'val' or 'test', each a folder or a list file.")
    root = _base(path, content.get("path"))
    places = {split: tuple(_places(value, root, path, split)) for split, value in given.items()}
    return Description(path, root, places, content)


def _is_split(key: Any, value: Any, path: Path) -> bool:
    """Whether an entry is a split: a known name, one that contains a split's name, or one whose folder exists."""
    if not isinstance(key, str) or not value or key in _SETTINGS:
        return False
    if split_word(key) is not None:
        return True
    return isinstance(value, str) and len(value) < 4096 and "\0" not in value and os.path.isdir(path.parent / value)


def _base(path: Path, given: Any) -> Path:
    """The folder that `path:` names: absolute, or relative to the YAML file, or else to the working folder."""
    if given in (None, ""):
        return path.parent
    if not isinstance(given, str) or "\0" in given:
        raise DataError(f"'{path}': 'path' must be a folder, not {given!r}.", "Correct 'path', or remove it.")
    for folder in (path.parent / given, Path(given).absolute()):
        if os.path.isdir(folder):
            return folder.resolve() if ".." in folder.parts else folder
    raise DataError(
        f"'{path}': the folder '{given}' of 'path' does not exist.",
        f"It is looked for relative to '{path.parent}' and to the working folder. Correct 'path', or remove it.",
    )


def _places(value: Any, root: Path, path: Path, split: str) -> Iterator[Path]:
    """The folders and list files of one split. One that does not exist is refused when the split is opened."""
    for given in value if isinstance(value, list) else [value]:
        if not isinstance(given, str) or not given.strip() or "\0" in given or len(given) > 4096:
            raise DataError(f"'{path}': '{split}' must be a folder or a list of folders.", "Correct the entry.")
        entry = given.strip().replace("\\", "/")
        tried = [root / entry, path.parent / entry]
        if entry.startswith("../"):  # exports of Roboflow write ../train/images for the folder beside the file
            tried.append(path.parent / entry.removeprefix("../"))
        found = next((place for place in tried if os.path.exists(place)), tried[0])
        yield found.resolve() if ".." in found.parts else found
