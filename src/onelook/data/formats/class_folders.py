"""Images in one folder a class, for classifiers: `{split}/{class}/...`, or `{class}/...` that is split by a rule.

Every image has one "object", which is all of it: so everything that reads data sets reads these too.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from onelook.data import index as bits
from onelook.data.building import Images, Objects, lay_out, rows_of
from onelook.data.class_names import CLASS_LIMIT
from onelook.data.formats.base import Arrays, FilesOf, Format, Part, Source
from onelook.data.paths import images_below, is_image, walk_files
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.data.split_names import named_splits, split_word
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress

EVERY = 5  # the share of an undivided folder that is validated on: each fifth image
NOT_CLASSES = ("images", "labels", "annotations", "jpegimages")  # folders of detection data that lacks something
RULE = f"the folder is not divided: of every class, each {EVERY}th image by name is val, the others are train"


def find(root: Path) -> Source | None:
    """Class folders in a folder, divided into splits or not; None where there are not two classes with images.

    A class has images directly in its folder; those further below count too.
    """
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    divided = {path.name: Part(images=(path,)) for path in folders if split_word(path.name) and len(_classes(path)) > 1}
    if divided:
        parts = named_splits(divided)
        first = parts.get("train") or next(iter(parts.values()))
        return Source(CLASS_FOLDERS, root, root, parts, tuple(_classes(first.images[0])))
    names = _classes(root)
    if len(names) < 2:
        return None
    parts = {split: Part(images=(root,)) for split in ("train", "val")}
    return Source(CLASS_FOLDERS, root, root, parts, tuple(names), notes=(RULE,))


def _classes(folder: Path) -> list[str]:
    """Names of the subfolders that contain images, sorted by name."""
    inside = (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
    named = (path for path in inside if not split_word(path.name) and path.name.lower() not in NOT_CLASSES)
    return [path.name for path in named if any(is_image(name) for name in os.listdir(path))]


def _files_of(source: Source, split: str) -> FilesOf:
    """Every file the split depends on."""
    yield "|".join(source.names or ()), ""
    folder = source.parts[split].images[0]
    yield split, str(folder)
    yield from ((entry.path[len(str(folder)) :], entry) for entry in walk_files(folder))


def _list_images(source: Source, split: str) -> list[tuple[str, int]]:
    """(name relative to the data set's folder, label) of every image of a split, class by class, sorted by name."""
    folder, names = source.parts[split].images[0], source.names or ()
    if len(names) > CLASS_LIMIT:
        raise DataError(f"'{folder}' has {len(names)} classes, more than {CLASS_LIMIT}.", "Name another folder.")
    unknown = [name for name in _classes(folder) if name not in names]
    if unknown:
        raise DataError(
            f"'{folder / unknown[0]}' is a class that the training split does not have.",
            "Give all splits the same class folders.",
        )
    found = []
    for label, name in enumerate(names):
        if not (folder / name).is_dir():
            continue
        place = (folder / name).relative_to(source.root).as_posix()
        inside = sorted(images_below(folder / name))
        if folder == source.root:
            inside = [image for i, image in enumerate(inside) if (i % EVERY == EVERY - 1) == (split == "val")]
        found += [(f"{place}/{image}", label) for image in inside]
    return found


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of the split's index."""
    listed = _list_images(source, split)
    sizes = image_sizes([f"{source.root}/{name}" for name, _ in listed], progress, stop=problems.strict)
    images, objects = Images(), Objects()
    for (name, label), size in zip(listed, sizes):
        if isinstance(size, ImageError):
            problems.error("image-unreadable", size.message, size.remedy, file=f"{source.root}/{name}")
            continue
        images.add(len(images) + 1, name, size, flags=bits.LABELLED | bits.MEASURED)
        box = (0.0, 0.0, float(size[1]), float(size[0]))
        objects.add(len(images), len(images), label, box, area=float(size[0] * size[1]))
    ids = np.frombuffer(objects.image_ids, np.int64) if len(objects) else np.zeros(0, np.int64)
    labels = np.frombuffer(objects.categories, np.int64) if len(objects) else np.zeros(0, np.int64)
    rows = rows_of(np.arange(1, len(images) + 1), ids)
    names = list(source.names or ())
    return lay_out(images, objects, labels, rows), {"names": names, "category_ids": list(range(len(names)))}


CLASS_FOLDERS = Format(
    name="classes",
    title="class folders",
    layout="for a classifier: one folder of images a class, or {split}/{class}/",
    find=find,
    files_of=_files_of,
    read=_read,
    image_root=lambda source, split, index: source.root,
    annotation_file=lambda source, split, path, name: path,
    has_boxes=False,
    lists_images=True,
    rank=2,
)
