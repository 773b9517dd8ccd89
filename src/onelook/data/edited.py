"""A data set that is made from others when it is opened, without copies: joined, with other classes, divided by lists.

It is described by a small YAML file (`onelook.data.edit_file`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data.annotated_sizes import REMEDY, Misfit
from onelook.data.arrays import join, names_of, take_images, take_objects, with_image_names
from onelook.data.building import mark_measured
from onelook.data.check_images import look_at_all
from onelook.data.edit_file import EditFile, read_edit_file
from onelook.data.formats.base import Arrays, FilesOf, Format, Part, Source
from onelook.data.index import Index, index_in_memory
from onelook.data.paths import LIST_LIMIT, read_text
from onelook.data.problems import Problem, Problems
from onelook.data.split_names import WHOLE
from onelook.errors import DataError
from onelook.reporter import Progress

_LIST_REMEDY = "Correct the list, or make it again with `onelook split`."
_SHOWN = 3


@dataclass(frozen=True)
class EditedSource(Source):
    """The data sets that an edited one is made from, and the changes."""

    children: tuple[Source, ...] = ()
    edits: EditFile = field(default_factory=lambda: EditFile(Path(), ()))

    def origin(self, split: str, index: Index, row: int) -> tuple[Source, str, str]:
        """The source, its split, and the image's name there."""
        last = 0
        for count, child, own_split, prefix in index.meta["origins"]:
            last += count
            if row < last:
                return self.children[child], own_split, index.name(row).removeprefix(prefix)
        return self, split, index.name(row)


def edited_source(path: Path, find: Callable[[Path], Source]) -> EditedSource:
    """The data set that a YAML file describes. find: finds the data sets that it names. Raises `DataError`."""
    edits = read_edit_file(path)
    children = tuple(find(place) for place in edits.sources)
    for child in children:
        if any(part.shards for part in child.parts.values()):
            raise DataError(
                f"{path}: '{child.described_by}' is in shards, which are not edited, joined or divided as they are.",
                "Write its images as files first: onelook convert DATA --to coco --out FOLDER",
            )
    formats = [child.format for child in children]
    if len({format.has_boxes for format in formats}) > 1:
        listed = ", ".join(f"'{child.described_by}' ({child.format.title})" for child in children)
        raise DataError(f"{path}: 'from' joins images with and without boxes: {listed}.", "Join those of one kind.")
    ignores = [format.ignores_difficult for format in formats]
    notes = [note for child in children for note in child.notes]
    if any(ignores) and not all(ignores):
        notes.append("difficult objects count like all others, because not all of the joined data sets leave them out")
    whole = [child for child in children if tuple(child.parts) == (WHOLE,)]
    if edits.lists:
        parts = {split: Part(images=(file,)) for split, file in edits.lists.items()}
    elif len(whole) == len(children):
        parts = {WHOLE: Part()}
    else:
        found = {_split_of(split): Part() for child in children for split in child.parts}
        parts = {split: found.pop(split) for split in ("train", "val", "test") if split in found} | found
        notes += [f"'{child.described_by}' is not divided into splits: all of it is 'train'" for child in whole]
    titles = " and ".join(dict.fromkeys(format.title for format in formats))
    format = replace(
        EDITED,
        title=f"edited {titles}",
        has_boxes=formats[0].has_boxes,
        has_ids=formats[0].has_ids and not _mixes_ids(children, edits),
        ignores_difficult=all(ignores),
        in_pixels=all(format.in_pixels for format in formats),
    )
    return EditedSource(format, path.parent, path, parts, notes=tuple(notes), children=children, edits=edits)


def _mixes_ids(children: Sequence[Source], edits: EditFile) -> bool:
    """Whether a split can have images of several annotation files, each of which numbers its images from the start."""
    return len(children) > 1 or (bool(edits.lists) and len(children[0].parts) > 1)


def _split_of(own: str) -> str:
    """The split that the images of a joined data set's split belong to."""
    return "train" if own == WHOLE else own


def _source_of(source: Source) -> EditedSource:
    assert isinstance(source, EditedSource)  # only these have this format
    return source


def _files_of(source: Source, split: str) -> FilesOf:
    edited = _source_of(source)
    yield "edits", str(edited.described_by)
    if edited.edits.lists:
        yield "list", str(edited.edits.lists[split])
    for number, child in enumerate(edited.children):
        for own in child.parts:
            for name, file in child.format.files_of(child, own):
                yield f"{number}/{own}/{name}", file


@dataclass(frozen=True, eq=False)
class _Piece:
    """One split of one of the joined data sets, as it was read. root: the folder of its images."""

    child: int
    own_split: str
    arrays: Mapping[str, np.ndarray]
    meta: dict[str, Any]
    root: Path


def _pieces(source: EditedSource, split: str, problems: Problems, progress: Progress) -> Iterator[_Piece]:
    """All splits of all joined data sets. Faults of what the split is not made of are reported with that split."""
    for number, child in enumerate(source.children):
        for own in child.parts:
            used = bool(source.edits.lists) or split in (_split_of(own), own)
            arrays, meta = child.format.read(child, own, problems if used else Problems(strict=False), progress)
            index = index_in_memory(arrays, meta)
            try:
                root = child.format.image_root(child, own, index)
            except DataError as error:
                if used:
                    problems.error("images-not-found", error.message, error.remedy, file=str(child.described_by))
                root = child.root
            yield _Piece(number, own, arrays, meta, root)


def _read(source: Source, split: str, problems: Problems, progress: Progress) -> Arrays:
    """The arrays and the meta of a split's index.

    meta has, beside the usual: `root`, the folder of the images, relative to that of the YAML file; `origins`, of each
    run of rows its length, the number of the joined data set, its split, and what precedes the names in it;
    `left_out`, the problems of what was left out.
    """
    edited = _source_of(source)
    lenient = Problems(strict=False) if edited.edits.skip_bad else problems
    every = list(_pieces(edited, split, lenient, progress))
    names = list(dict.fromkeys(name for piece in every for name in piece.meta["names"]))
    new_names, labels = edited.edits.classes.apply(names, str(edited.described_by))
    if edited.edits.lists:
        pieces = every
    else:
        pieces = [piece for piece in every if split in (_split_of(piece.own_split), piece.own_split)]
    base = os.path.commonpath([piece.root.absolute() for piece in pieces])
    prefixes = [_prefix(piece.root.absolute(), base) for piece in pieces]
    arrays = join([_relabelled(piece, prefix, names, labels) for piece, prefix in zip(pieces, prefixes)])
    piece_of = np.repeat(np.arange(len(pieces)), [len(piece.arrays["sizes"]) for piece in pieces])
    if edited.edits.lists:
        rows = _listed_rows(edited, split, arrays, base, lenient)
        arrays, piece_of = take_images(arrays, rows), piece_of[rows]
    if edited.edits.skip_bad:
        sound = _sound_rows(arrays, base, lenient, progress)
        arrays, piece_of = take_images(arrays, sound), piece_of[sound]
        mark_measured(arrays, np.arange(len(sound)))
    if _mixes_ids(edited.children, edited.edits):
        arrays["image_ids"] = np.arange(1, len(piece_of) + 1)
        arrays["annotation_ids"] = np.arange(1, len(arrays["labels"]) + 1)
    counts = np.bincount(piece_of, minlength=len(pieces)).tolist()
    meta = _meta(edited, every, new_names, problems, lenient)
    meta["root"] = _relative(base, edited.root)
    meta["origins"] = [
        [count, piece.child, piece.own_split, prefix] for count, piece, prefix in zip(counts, pieces, prefixes)
    ]
    return arrays, meta


def _prefix(root: Path, base: str) -> str:
    """What precedes an image's name where names are relative to `base`."""
    place = os.path.relpath(root, base).replace(os.sep, "/")
    return "" if place == "." else f"{place}/"


def _relative(place: str, start: Path) -> str:
    try:
        return os.path.relpath(place, start)
    except ValueError:  # on another drive of Windows
        return place


def _relabelled(piece: _Piece, prefix: str, names: list[str], labels: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a piece with the new labels, and the names of its images below the common folder."""
    own = np.array([labels[names.index(name)] for name in piece.meta["names"]], np.int64)
    new = own[piece.arrays["labels"]] if len(own) else np.zeros(0, np.int64)
    arrays = take_objects({**piece.arrays, "labels": new.astype(np.int32)}, new >= 0)
    return with_image_names(arrays, [prefix + name for name in names_of(arrays)]) if prefix else arrays


def _listed_rows(
    source: EditedSource, split: str, arrays: Mapping[str, np.ndarray], base: str, problems: Problems
) -> np.ndarray:
    """The rows of the images that a list names, in the order of the rows; each image once."""
    file = source.edits.lists[split]
    rows: dict[str, int] = {}
    for row, name in enumerate(names_of(arrays)):
        rows.setdefault(os.path.normcase(os.path.normpath(os.path.join(base, name))), row)
    found = set()
    for line, text in enumerate(read_text(file, LIST_LIMIT).split("\n"), 1):
        if not text.strip():
            continue
        path = os.path.normcase(os.path.normpath(os.path.join(file.parent.absolute(), text.strip())))
        if path not in rows:
            message = f"the image '{text.strip()[:200]}' is not in the data set."
            problems.error("list-entry", message, _LIST_REMEDY, file=str(file), line=line)
            continue
        found.add(rows[path])
    return np.array(sorted(found), np.int64)


def _sound_rows(arrays: Mapping[str, np.ndarray], base: str, problems: Problems, progress: Progress) -> np.ndarray:
    """The rows of images that can be decoded and have their annotated size; the others are reported."""
    names, sizes, sound = names_of(arrays), arrays["sizes"].tolist(), []
    paths = [os.path.join(base, name) for name in names]
    looked = look_at_all(paths, progress, quick=False)
    for row, path in enumerate(paths):
        found = looked[path]
        if found.error is None and found.size == tuple(sizes[row]):
            sound.append(row)
        elif found.error is not None:
            problems.error("image-unreadable", found.error.message, found.error.remedy, file=path)
        elif found.size is not None:
            misfit = Misfit(path, found.size, (sizes[row][0], sizes[row][1]))
            problems.error("image-size-mismatch", f"{misfit}.", REMEDY, file=path)
    return np.array(sound, np.int64)


def _meta(
    source: EditedSource, pieces: list[_Piece], names: list[str], problems: Problems, lenient: Problems
) -> dict[str, Any]:
    notes = dict.fromkeys(note for piece in pieces for note in piece.meta.get("notes", ()))
    left_out = [problem for problem in lenient.found if problem.severity == "error"] if lenient is not problems else []
    if left_out:
        shown = "; ".join(f"{problem.place}: {problem.message}" for problem in left_out[:_SHOWN])
        more = f"; and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        notes[f"faulty entries and images are left out (skip_bad): {shown}{more}"] = None
        for problem in left_out:
            problems.warning("left-out", f"Left out: {problem.message}", problem.remedy, **_place(problem))
    first = pieces[0].meta
    same = all(piece.meta["names"] == names for piece in pieces) and len(source.children) == 1
    kept: dict[str, Any] = {key: first[key] for key in ("category_extras", "rest") if same and key in first}
    ids = first["category_ids"] if same else list(range(len(names)))
    return {
        "names": names,
        "category_ids": ids,
        **kept,
        "notes": list(notes),
        "left_out": [asdict(problem) for problem in left_out],
    }


def _place(problem: Problem) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "annotation": problem.annotation}


def _image_root(source: Source, split: str, index: Index) -> Path:
    return Path(os.path.normpath(source.root / index.meta["root"]))


EDITED = Format(
    name="edited",
    title="edited",
    layout="a YAML file with the key 'from'",
    find=lambda root: None,
    files_of=_files_of,
    read=_read,
    image_root=_image_root,
    annotation_file=lambda source, split, path, name: str(source.described_by),
)
