"""Where the files of a Pascal VOC data set are."""

from __future__ import annotations

from pathlib import Path

from onelook.data.formats.base import WHOLE, Part, Source, named_splits, split_word
from onelook.data.formats.yolo import LIST_LIMIT, name_list
from onelook.data.paths import is_image, read_text
from onelook.errors import DataError

_NAME_FILES = ("labels.txt", "classes.txt", "classes.names")


def voc_folder(root: Path) -> Source | None:
    """VOC in a folder: `Annotations` with lists in `ImageSets/Main` or without, or `{split}/*.xml` beside images."""
    if (root / "Annotations").is_dir() and any(_has_xml(root / "Annotations")):
        parts = {
            path.stem: Part(path) for path in sorted((root / "ImageSets" / "Main").glob("*.txt")) if _is_split(path)
        }
        parts = named_splits(parts) if parts else {WHOLE: Part()}
    else:
        folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and split_word(folder.name)]
        parts = {folder.name: Part(images=(folder,)) for folder in folders if any(folder.glob("*.xml"))}
        if not parts:
            return _in_devkit(root)
        parts = named_splits(parts)
    names = next((tuple(name_list(root / name)) for name in _NAME_FILES if (root / name).is_file()), None)
    return Source("voc", root, root, parts, names)


def _in_devkit(root: Path) -> Source | None:
    inside = [folder for folder in sorted(root.glob("VOC20*")) if (folder / "Annotations").is_dir()]
    if len(inside) > 1:
        listed = ", ".join(f"'{folder.name}'" for folder in inside)
        raise DataError(f"'{root}' holds several data sets: {listed}.", "Give one of these folders.")
    return voc_folder(inside[0]) if inside else None


def _has_xml(folder: Path) -> list[Path]:
    return [path for path in [next(folder.rglob("*.xml"), None)] if path is not None]


def _is_split(path: Path) -> bool:
    """Whether a list is one of images, not of the images that have one class (`cat_train.txt`: rows with -1, 0, 1)."""
    start = read_text(path, LIST_LIMIT).strip().split("\n")[0].split()
    return not (len(start) == 2 and start[1] in ("-1", "0", "1") and "_" in path.stem)


def ids_of(source: Source, split: str) -> list[str]:
    """The image ids of a split, sorted, each once: the list's lines, or the names of all annotation files."""
    part, folder = source.parts[split], annotation_folder(source, split)
    if part.annotations is None:
        files = (path for path in folder.rglob("*.xml") if not path.name.startswith("."))
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)
    ids = set()
    for line in read_text(part.annotations, LIST_LIMIT).split("\n"):
        name = line.strip()
        if not name:
            continue
        words = name.split()
        if len(words) == 2 and words[1] in ("-1", "0", "1") and not (folder / f"{name}.xml").exists():
            name = words[0]  # a list of the images with one class, used as a split
        if name.lower().endswith(".xml") or is_image(name):
            name = name.rpartition(".")[0]
        ids.add(name)
    return sorted(ids)


def annotation_folder(source: Source, split: str) -> Path:
    """The folder of the XML files."""
    part = source.parts[split]
    return part.images[0] if part.images else source.root / "Annotations"


def image_folder(source: Source, split: str) -> Path:
    """The folder of the images."""
    part = source.parts[split]
    if part.images:
        return part.images[0]
    folders = [source.root / name for name in ("JPEGImages", "images", "Images")]
    return next((folder for folder in folders if folder.is_dir()), folders[0])
