"""Pascal VOC: one XML file an image, boxes by their first and last pixel, counted from 1."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import index as bits
from onelook.data.building import Images, Objects, lay_out, mark_measured
from onelook.data.class_names import first_names
from onelook.data.formats.base import (
    Arrays,
    Format,
    Part,
    ReadSplit,
    Source,
)
from onelook.data.formats.bounded_xml import REMEDY
from onelook.data.formats.collector import read_number
from onelook.data.formats.voc_writer import VocWriter
from onelook.data.formats.voc_xml import SIDES, VocFile, VocObject, read_xml
from onelook.data.paths import (
    LIST_LIMIT,
    entries_ending,
    first_bytes,
    has_images,
    images_below,
    is_image,
    plain_name,
    read_text,
)
from onelook.data.problems import Problems
from onelook.data.sizes import image_sizes
from onelook.data.split_names import WHOLE, named_splits, split_word
from onelook.errors import DataError, ImageError
from onelook.reporter import Progress

_PEEK = 4096  # bytes that tell what a file is
_NAME_FILES = ("labels.txt", "classes.txt", "classes.names")


def find(root: Path) -> Source | None:
    """VOC in a folder: `Annotations` with lists in `ImageSets/Main`, with a folder for each split or without splits;
    `labels` beside `data` or `images`, also in `{split}`; or `{split}/*.xml` beside images.
    """
    if _is_annotated(root):
        annotations = _folder_of_annotations(root)
        parts = {
            path.stem: Part(path) for path in entries_ending(root / "ImageSets" / "Main", ".txt") if _is_split(path)
        }
        parts = parts or _divided(root, annotations)
        parts = named_splits(parts) if parts else {WHOLE: Part()}
    else:
        folders = [root / name for name in sorted(os.listdir(root)) if split_word(name) and os.path.isdir(root / name)]
        parts = {folder.name: Part(images=found) for folder in folders if (found := _split_folders(folder))}
        if not parts:
            return _in_devkit(root)
        parts = named_splits(parts)
    names = first_names(root, _NAME_FILES)
    return Source(VOC, root, root, parts, names)


def _is_annotated(root: Path) -> bool:
    """Whether a folder has annotations in a folder of their own."""
    folder = _folder_of_annotations(root)
    if folder.name != "labels":
        return folder.is_dir() and _has_xml(folder)
    # Most folders of this name are YOLO's, with a file for each of many images: what is below is not searched.
    return _may_be_voc(_first_xml(folder)) and not entries_ending(folder, ".txt") and _images_beside(folder) is not None


def _folder_of_annotations(root: Path) -> Path:
    """`Annotations`, or `annotations` where the name is written so, or `labels`, as FiftyOne calls it."""
    folders = [root / name for name in ("Annotations", "annotations", "labels")]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _images_beside(annotations: Path) -> Path | None:
    """The folder of the images beside that of the annotations; None where there is none."""
    return next((folder for folder in _image_folders(annotations.parent) if folder.is_dir()), None)


def _split_folders(folder: Path) -> tuple[Path, ...]:
    """Of the folder of a split: itself, where images and XML files are side by side, or those of both; () otherwise."""
    if _may_be_voc(_first_xml(folder)):
        return (folder,)
    images = _images_beside(annotations := _folder_of_annotations(folder))
    return (annotations, images) if images is not None and _is_annotated(folder) else ()


def _divided(root: Path, annotations: Path) -> dict[str, Part]:
    """The splits of `annotations/{split}/*.xml` and `images/{split}/`; {} where the folders are not divided so."""
    parts = {}
    for folder in sorted(annotations.iterdir()):
        if folder.is_dir() and split_word(folder.name) and _has_xml(folder):
            images = next((one / folder.name for one in _image_folders(root) if (one / folder.name).is_dir()), None)
            if images is None:
                return {}
            parts[folder.name] = Part(images=(folder, images))
    return parts


def _image_folders(root: Path) -> list[Path]:
    return [root / name for name in ("JPEGImages", "images", "Images", "data")]


def find_flat(root: Path) -> Source | None:
    """Finds a folder in which images and their XML files lie side by side, as labelling tools leave them."""
    first = next((path for path in sorted(root.glob("*.xml")) if not path.name.startswith(".")), None)
    if first is None or not re.search(rb"<annotation[\s>]", first_bytes(first, _PEEK)) or not has_images(root):
        return None
    return Source(VOC, root, root, {WHOLE: Part(images=(root,))}, first_names(root, _NAME_FILES))


def _in_devkit(root: Path) -> Source | None:
    inside = [folder for folder in sorted(root.glob("VOC20*")) if (folder / "Annotations").is_dir()]
    if len(inside) > 1:
        listed = ", ".join(f"'{folder.name}'" for folder in inside)
        raise DataError(f"'{root}' holds several data sets: {listed}.", "Give one of these folders.")
    return find(inside[0]) if inside else None


def _first_xml(folder: Path) -> Path | None:
    """The first XML file in a folder, or None. Names are compared all at once: a folder may hold a split's images."""
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    if ".xml/" not in os.path.normcase("/".join(names)).replace(os.sep, "/") + "/":
        return None
    return next(folder / name for name in names if os.path.normcase(name).endswith(".xml"))


def _has_xml(folder: Path) -> bool:
    """Whether the first XML file in a folder, or else below it, may be one of the format."""
    below = (_first_xml(Path(place)) for place, _, _ in os.walk(folder))
    first = _first_xml(folder) or next((path for path in below if path is not None), None)
    return _may_be_voc(first)


def _may_be_voc(path: Path | None) -> bool:
    """Whether there is a file, and it is not one that annotates many images: those have `<annotations>`."""
    return path is not None and not re.search(rb"<annotations[\s>]", first_bytes(path, _PEEK))


def _is_split(path: Path) -> bool:
    """Whether a list is one of images, not of the images that have one class (`cat_train.txt`: rows with -1, 0, 1)."""
    start = read_text(path, LIST_LIMIT).strip().split("\n")[0].split()
    return not (len(start) == 2 and start[1] in ("-1", "0", "1") and "_" in path.stem)


def _ids_of(source: Source, split: str) -> list[str]:
    """The image ids of a split, sorted, each once: the list's lines, or the names of all annotation files."""
    part, folder = source.parts[split], _annotation_folder(source, split)
    if part.annotations is None:
        files = (path for path in folder.rglob("*.xml") if not path.name.startswith("."))
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)
    lines = [line.strip() for line in read_text(part.annotations, LIST_LIMIT).split("\n")]
    lines = [line for line in lines if line]
    if _is_class_list(lines, folder):  # a list of the images with one class, used as a split
        lines = [line.split()[0] for line in lines]
    return sorted({_without_ending(line, folder) if "." in line else line for line in lines})


def _without_ending(name: str, folder: Path) -> str:
    """The id of a line: some lists name the images or the annotations."""
    named = name.lower().endswith(".xml") or is_image(name)
    return name.rpartition(".")[0] if named and not os.path.exists(folder / f"{name}.xml") else name


def _is_class_list(lines: Sequence[str], folder: Path) -> bool:
    """Whether every line is an id and -1, 0 or 1; not where that is a name with a space."""
    if not all(len(words := line.split()) == 2 and words[1] in ("-1", "0", "1") for line in lines):
        return False
    if any(os.path.exists(folder / f"{line}.xml") for line in lines):
        return False
    return any(os.path.exists(folder / f"{line.split()[0]}.xml") for line in lines)


def _annotation_folder(source: Source, split: str) -> Path:
    """The folder of the XML files."""
    part = source.parts[split]
    return part.images[0] if part.images else _folder_of_annotations(source.root)


def _image_folder(source: Source, split: str) -> Path:
    """The folder of the images."""
    part = source.parts[split]
    if part.images:
        return part.images[-1]  # the only one, where images and annotations are side by side
    folders = _image_folders(source.root)
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _files_of(source: Source, split: str) -> list[tuple[str, str]]:
    """Every file the split depends on: all lists and annotations (they name the classes), and the image folder."""
    files = {}
    for name, part in source.parts.items():
        folder = _annotation_folder(source, name)
        if part.annotations is not None:
            files[part.annotations.name] = str(part.annotations)
        start, place = folder.name, str(folder)
        files.update((f"{start}/{image}", f"{place}/{image}.xml") for image in _ids_of(source, name))
    files["images"] = str(_image_folder(source, split))
    return [*files.items(), ("|".join(source.names or ()), "")]


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of a split's index. Image ids are 1 to I in the sorted order of ids.

    Classes are in alphabetical order over all splits, unless a file `labels.txt` or `classes.txt` lists them.
    """
    ids, folder, images_in = _ids_of(source, split), _annotation_folder(source, split), _image_folder(source, split)
    on_disk = {os.path.splitext(name)[0]: name for name in images_below(images_in)} if images_in.is_dir() else {}
    images, objects, names = Images(), Objects(), []
    unlabelled: list[str] = []
    for number, image in enumerate(ids, 1):
        if plain_name(image) != image:
            place = {"file": str(source.parts[split].annotations)}
            problems.error("file-name", f"'{image[:80]}' is not the name of an image.", "Correct the list.", **place)
            continue
        path = os.path.join(folder, f"{image}.xml".replace("/", os.sep))
        found: VocFile | None = VocFile()
        if os.path.lexists(path):  # unlike Path.exists, it takes names of any length
            found = problems.read_or_report("xml-unreadable", REMEDY, partial(read_xml, path), file=path)
        else:
            unlabelled.append(image)
        if found is not None:
            flags = 0 if image in unlabelled[-1:] else bits.LABELLED
            images.add(number, _image_name(image, found, on_disk), _size(found, path, problems), flags=flags)
            names += _add_objects(found.objects, objects, number, path, problems)
        if number % 64 == 0:
            progress(number, len(ids))
    classes = source.names or tuple(sorted({*names, *_names_elsewhere(source, split)}))
    labels = _labels(names, classes, objects, source, problems)
    rows = np.searchsorted(np.array(images.ids, np.int64), np.array(objects.image_ids, np.int64))
    arrays = lay_out(images, objects, labels, rows, labels >= 0)
    _fill_sizes(arrays, images_in, problems)
    notes = [f"images without an annotation file, which count as background: {len(unlabelled)}"] if unlabelled else []
    return arrays, {"names": list(classes), "category_ids": list(range(len(classes))), "notes": notes}


def _image_name(image: str, found: VocFile, on_disk: dict[str, str]) -> str:
    """The file that has the id as its name; else the one the annotation names, if it exists; else `{id}.jpg`."""
    if image in on_disk:
        return on_disk[image]
    given = plain_name(found.texts.get("filename", ""))
    stem = os.path.splitext(given.rpartition("/")[2])[0] if given else ""
    return on_disk.get(stem, f"{image}.jpg")


def _size(found: VocFile, path: str, problems: Problems) -> tuple[int, int]:
    """(height, width) as annotated; zeros where they are missing (the image's header has them then)."""
    size = []
    for side in ("height", "width"):
        text = found.texts.get(side, "") or "0"
        value = read_number(text)
        if value is None or value != int(value) or not 0 <= value <= 1 << 20:
            problems.error("image-size", f"<{side}> must be a number of pixels, not '{text[:60]}'.", REMEDY, file=path)
            value = 0
        size.append(int(value))
    return (size[0], size[1]) if all(size) else (0, 0)


def _add_objects(found: list[VocObject], objects: Objects, number: int, path: str, problems: Problems) -> list[str]:
    """Adds one file's objects; returns their class names."""
    names = []
    for thing in found:
        place: dict[str, Any] = {"file": path, "line": thing.line}
        name = thing.texts.get("name", "")
        if not name:
            problems.error("class-format", "an object has no <name>.", REMEDY, **place)
            continue
        sides = [read_number(thing.texts.get(side, "")) for side in SIDES]
        if None in sides:
            wrong = next(side for side, value in zip(SIDES, sides) if value is None)
            text = thing.texts.get(wrong)
            message = f"<{wrong}> of '{name[:60]}' " + (
                "is missing" if text is None else f"is '{text[:60]}', no number"
            )
            problems.error("box-format", f"{message}.", REMEDY, **place)
            continue
        x1, y1, x2, y2 = (value - 1 for value in sides if value is not None)  # the official -1 on all four
        if x2 < x1 or y2 < y1:
            problems.error("box-negative", f"the box of '{name[:60]}' ends before it starts.", REMEDY, **place)
            continue
        box = (x1, y1, x2 - x1, y2 - y1)
        pose = thing.texts.get("pose", "")
        extra = json.dumps({"pose": pose}) if pose and pose.lower() != "unspecified" else ""
        flags = _flags(thing, place, problems)
        objects.add(len(objects) + 1, number, 0, box, area=box[2] * box[3], flags=flags, line=thing.line, extra=extra)
        names.append(name)
    return names


def _flags(thing: VocObject, place: dict[str, Any], problems: Problems) -> int:
    flags = 0
    for tag, bit in (("difficult", bits.DIFFICULT), ("truncated", bits.TRUNCATED), ("occluded", bits.OCCLUDED)):
        text = thing.texts.get(tag, "").lower() or "0"
        if text in ("1", "true", "yes"):
            flags |= bit
        elif text not in ("0", "false", "no", "unspecified"):
            message = f"<{tag}> must be 0 or 1, not '{text[:60]}'."
            (problems.error if tag == "difficult" else problems.warning)("flag", message, REMEDY, **place)
    return flags


def _names_elsewhere(source: Source, split: str) -> set[str]:
    """The class names of the other splits. Faults of their files are reported when those splits are opened."""
    own, names = set(_ids_of(source, split)), set()
    for other in source.parts:
        folder = _annotation_folder(source, other)
        for image in _ids_of(source, other) if other != split else ():
            path = folder / f"{image}.xml"
            if (image in own and folder == _annotation_folder(source, split)) or plain_name(image) != image:
                continue
            if os.path.exists(path):
                try:
                    names |= {thing.texts.get("name", "") for thing in read_xml(path).objects}
                except DataError:
                    continue
    return names - {""}


def _labels(
    names: list[str], classes: Iterable[str], objects: Objects, source: Source, problems: Problems
) -> np.ndarray:
    known = {name: label for label, name in enumerate(classes)}
    labels = np.array([known.get(name, -1) for name in names], np.int64)
    for row in np.flatnonzero(labels < 0).tolist():
        message = f"The class '{names[row][:60]}' (object {row + 1} of the split) is not in the list of classes."
        problems.error("unknown-category", message, "Add it to the list, or correct it.", file=str(source.root))
    return labels


def _fill_sizes(arrays: dict[str, np.ndarray], folder: Path, problems: Problems) -> None:
    missing = np.flatnonzero((arrays["sizes"] == 0).any(axis=1)).tolist()
    ends, text = arrays["name_offsets"], arrays["name_bytes"].tobytes()
    paths = [str(folder / text[ends[row] : ends[row + 1]].decode()) for row in missing]
    for row, size in zip(missing, image_sizes(paths, stop=problems.strict)):
        if isinstance(size, ImageError):
            problems.error("image-unreadable", size.message, size.remedy, file=paths[missing.index(row)])
        else:
            arrays["sizes"][row] = size
    mark_measured(arrays, np.array(missing, np.int64))


def _check(source: Source, read: Sequence[ReadSplit], problems: Problems) -> None:
    """Annotations that no list names."""
    if not any(part.annotations for part in source.parts.values()):
        return
    listed = {image for split in source.parts for image in _ids_of(source, split)}
    folder = _folder_of_annotations(source.root)
    for file in sorted(folder.rglob("*.xml")):
        if file.relative_to(folder).with_suffix("").as_posix() not in listed and not file.name.startswith("."):
            message = "No list in 'ImageSets/Main' names this annotation, so it is not used."
            problems.warning("annotation-not-listed", message, "Add it to a list, or delete it.", file=str(file))


def _annotation_file(source: Source, split: str, path: str, name: str) -> str:
    return str(_annotation_folder(source, split) / Path(name).with_suffix(".xml"))


VOC = Format(
    name="voc",
    title="Pascal VOC",
    layout="JPEGImages or images, Annotations, ImageSets/Main/{split}.txt; data and labels; "
    "or XML files beside their images",
    find=find,
    find_flat=find_flat,
    files_of=_files_of,
    read=_read,
    image_root=lambda source, split, index: _image_folder(source, split),
    annotation_file=_annotation_file,
    write=VocWriter,
    check=_check,
    ignores_difficult=True,
)
