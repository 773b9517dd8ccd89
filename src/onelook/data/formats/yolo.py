"""Where the files of a YOLO data set are: described by a YAML file, or by its folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onelook.config import read_yaml
from onelook.data.formats.base import CLASS_LIMIT, WHOLE, Part, Source, named_splits, split_word
from onelook.data.paths import has_images, is_image, read_text
from onelook.errors import ConfigError, DataError

_DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SETTINGS = frozenset(("path", "names", "nc", "download", "kpt_shape", "flip_idx", "roboflow"))
_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "names.txt", "labels/classes.txt", "predefined_classes.txt")
LIST_LIMIT = 1 << 30  # bytes of a list of images: about ten million paths
NAMES_LIMIT = 1 << 20


def described_in_yaml(root: Path) -> Source | None:
    """The data set of the YAML file in a folder: `data.yaml`, or the only one that names a split; else None."""
    for name in _DESCRIPTIONS:
        if (root / name).is_file():
            return yolo_yaml(root / name)
    others = [path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml") and path.is_file()]
    return yolo_yaml(others[0]) if len(others) == 1 and _names_a_split(others[0]) else None


def _names_a_split(path: Path) -> bool:
    try:
        lines = read_text(path, NAMES_LIMIT).splitlines()
    except DataError:
        return False
    return any(line.split(":")[0].strip() in _SPLITS for line in lines if ":" in line)


def yolo_yaml(path: Path) -> Source:
    """The data set that a YAML file describes (the keys of the field: path, train, val, test, names, nc, kpt_shape).

    A split is a folder, a `.txt` list of images, or a list of both; a `.json` makes it a COCO data set. Nothing
    that a file wants to have downloaded or run is looked at. Raises `DataError`.
    """
    from onelook.data.formats.coco import coco_file

    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise DataError(error.message, error.remedy or "Correct the file.") from error
    content = content if isinstance(content, dict) else {}
    given = {_SPLITS.get(str(key), str(key)): value for key, value in content.items() if _is_split(key, value, path)}
    if not given:
        raise DataError(f"'{path}' names no split.", "It needs 'train', 'val' or 'test', each a folder or a list file.")
    root = _base(path, content.get("path"))
    parts = {split: tuple(_places(value, root, path, split)) for split, value in given.items()}
    if all(place.suffix == ".json" for places in parts.values() for place in places):
        files = {split: next(iter(coco_file(places[0]).parts.values())) for split, places in parts.items()}
        return Source("coco", root, path, files)
    names = _names(content, path)
    values = _keypoint_values(content.get("kpt_shape"), path)
    return Source("yolo", root, path, {s: Part(images=p) for s, p in parts.items()}, names, values)


def _is_split(key: Any, value: Any, path: Path) -> bool:
    """Whether an entry is a split: a known name, one that speaks of a split, or one whose folder exists."""
    if not isinstance(key, str) or not value or key in _SETTINGS:
        return False
    if split_word(key) is not None:
        return True
    return isinstance(value, str) and len(value) < 4096 and "\0" not in value and (path.parent / value).is_dir()


def _base(path: Path, given: Any) -> Path:
    """The folder that `path:` names: absolute, or relative to the YAML file, or else to the working folder."""
    if given in (None, ""):
        return path.parent
    if not isinstance(given, str) or "\0" in given:
        raise DataError(f"'{path}': 'path' must be a folder, not {given!r}.", "Correct 'path', or remove it.")
    for folder in (path.parent / given, Path(given).absolute()):
        if folder.is_dir():
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
        if entry.startswith("../"):  # exports of Roboflow say ../train/images for the folder beside the file
            tried.append(path.parent / entry.removeprefix("../"))
        found = next((place for place in tried if place.exists()), tried[0])
        yield found.resolve() if ".." in found.parts else found


def _names(content: dict[str, Any], path: Path) -> tuple[str, ...] | None:
    names, count = content.get("names"), content.get("nc")
    if count is not None and (type(count) is not int or not 0 < count <= CLASS_LIMIT):
        raise DataError(f"'{path}': 'nc' must be the number of classes, not {str(count)[:60]!r}.", "Correct it.")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(
                f"'{path}': the keys of 'names' must be 0 to {len(names) - 1}.", "Number the classes from 0."
            )
        names = [names[label] for label in range(len(names))]
    if names is None:
        return None if count is None else tuple(str(label) for label in range(count))
    if not isinstance(names, list):
        raise DataError(f"'{path}': 'names' must be a list of class names.", "Write names: [first, second].")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or not str(name).strip():
            raise DataError(f"'{path}': {name!r} in 'names' is not a class name.", "Put the name in quotes.")
    result = tuple(str(name).strip() for name in names)
    if len(result) > CLASS_LIMIT:
        raise DataError(f"'{path}' names more than {CLASS_LIMIT:,} classes.", "Check the file.")
    if count not in (None, len(result)):
        raise DataError(f"'{path}': 'nc' is {count}, but 'names' has {len(result)} classes.", "Make the two agree.")
    return _unique(result, path)


def _unique(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"'{path}' has the class name '{repeated[0]}' more than once.", "Give each class its own name.")
    return names


def _keypoint_values(shape: Any, path: Path) -> int:
    """How many numbers follow the box in a label row of a pose data set; 0 for others."""
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(v) is int and 0 < v < 10_000 for v in shape):
        return shape[0] * shape[1]
    raise DataError(f"'{path}': 'kpt_shape' must be two numbers such as [17, 3].", "Correct it.")


def name_list(path: Path) -> list[str]:
    """Class names from a text file, one a line."""
    names = [line.strip() for line in read_text(path, NAMES_LIMIT).split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise DataError(f"'{path}' must have one class name on every line.", "Remove empty lines.")
    return list(_unique(tuple(names), path))


def named_classes(root: Path) -> tuple[str, ...] | None:
    """The class names of a file that lies in the data set; None where there is none."""
    for name in _NAME_FILES:
        if (root / name).is_file():
            return tuple(name_list(root / name))
    return None


def yolo_folder(root: Path) -> Source | None:
    """YOLO by its folders: `images/{split}` + `labels/{split}`, `{split}/images` + `{split}/labels`, both without
    splits, or `{split}.txt` lists beside such folders; None where there is no label folder and no list."""
    parts = _parts(root)
    if not parts:
        return None
    names = named_classes(root)
    notes = () if names else ("no file names the classes, so they are called by their numbers",)
    return Source("yolo", root, root, named_splits(parts), names, notes=notes)


def _parts(root: Path) -> dict[str, Part]:
    images, labels = root / "images", root / "labels"
    lists = {path.stem: Part(images=(path,)) for path in sorted(root.glob("*.txt")) if _lists_images(path)}
    if lists:
        return lists
    if images.is_dir() and labels.is_dir():
        inside = [folder for folder in _folders(images) if (labels / folder.name).is_dir() or split_word(folder.name)]
        divided = [folder for folder in inside if has_images(folder)]
        if divided and not any(is_image(path.name) for path in images.iterdir()):
            return {folder.name: Part(images=(folder,)) for folder in divided}
        return {WHOLE: Part(images=(images,))} if has_images(images) else {}
    inside = [folder for folder in _folders(root) if (folder / "images").is_dir() and (folder / "labels").is_dir()]
    return {folder.name: Part(images=(folder / "images",)) for folder in inside}


def _folders(root: Path) -> Sequence[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _lists_images(path: Path) -> bool:
    """Whether a text file named after a split starts with the path of an image."""
    if split_word(path.stem) is None or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(4096).decode("utf-8-sig", "replace").strip()
    except OSError:
        return False
    return bool(start) and is_image(start.split("\n")[0].strip())
