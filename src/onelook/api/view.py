"""`onelook.view`: a data set as one HTML page: images with boxes, statistics, problems, and a model's mistakes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelook.api.open import Model, PathLike
from onelook.api.validate import validate
from onelook.config import check_arguments
from onelook.data import Dataset, open_dataset
from onelook.data.check import CheckReport
from onelook.data.check import check as check_data
from onelook.data.dataset import splits as split_names
from onelook.data.problems import Problem
from onelook.errors import DataError, UsageError, UserError, reason_of
from onelook.evaluation import Evaluation
from onelook.evaluation.coco import score
from onelook.evaluation.results import read_results
from onelook.evaluation.tables import GroundTruth
from onelook.files import write_text
from onelook.report.view import View, render_view
from onelook.reporter import PlainReporter, Reporter
from onelook.run_files import RECIPE
from onelook.types import text_repr


@dataclass(frozen=True)
class ViewResult:
    """The page that was written.

    path: of the page.  images, objects: in it, of all splits.  problems: how many were found.
    evaluated: the evaluation of the split that detections were given or made for; None without.
    """

    path: Path
    images: int
    objects: int
    problems: int
    evaluated: Evaluation | None = None

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data, and `stats` of the evaluation where there is one."""
        plain = {"path": str(self.path), "images": self.images, "objects": self.objects, "problems": self.problems}
        return plain if self.evaluated is None else {**plain, "stats": self.evaluated.stats}

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = ((self.images, "image"), (self.objects, "object"), (self.problems, "problem"))
        shown = ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
        return f"{shown}\nwrote {self.path}: open it in a browser; it reads the images from where they are"


def view(
    data: PathLike,
    *,
    out: PathLike = "view.html",
    model: Model | None = None,
    weights: PathLike | None = None,
    detections: PathLike | None = None,
    split: str = "val",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> ViewResult:
    """Writes one HTML page that shows a data set; it needs no network and no server.

    data: folder, YAML file or COCO JSON file, of which all splits are shown.  out: the file to write.  model: a model
    that is evaluated on `split`: a name with `weights`, a weights or exported file, or the folder of a run.
    detections: a COCO results file of `split`, instead of a model.  overwrite: replace a file that is there.

    The page has the images with their boxes, by class, split, size of the objects and kind of problem (those that
    `onelook check` finds without decoding images), and charts: classes, sizes, shapes, places, classes seen together,
    and how the splits differ. With detections it shows them beside the labels, at the confidence with the best F1, and
    finds false positives, misses and suspect labels; images can be sorted by their loss: the number of missed objects,
    the scores of false positives, and one minus the scores of right detections, all together.

    Images are not in the page: it refers to the files, relative to its own folder where they are in or near it.
    """
    check_arguments(view, locals())
    shown, path = reporter or PlainReporter(), Path(out)
    if model is not None and detections is not None:
        raise UsageError("A model and detections were given.", "Give one of them.")
    if (Path(data) / RECIPE).is_file():
        raise UsageError(
            f"'{data}' is the folder of a run, which does not hold its data.", f"Give the data set, and model {data}."
        )
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"'{path}' exists already.", "Replace it (overwrite), or name another file (out).")
    splits = _open_all(data, shown)
    report = check_data(os.fspath(data), quick=True, reporter=shown)
    evaluated = None
    if model is not None or detections is not None:
        chosen = _split_called(splits, split)
        if model is not None:
            evaluation = validate(model, chosen, weights=weights, reporter=shown)
        else:
            truth = GroundTruth.from_coco(chosen.coco_ground_truth())
            evaluation = score(truth, read_results(Path(os.fspath(detections or "")), truth))
        evaluated = chosen.split, evaluation
    notes = list(report.summary["notes"])
    if evaluated is not None:
        notes.append(
            f"Detections of the split '{evaluated[0]}', from the confidence {evaluated[1].best_confidence:.2f} on."
        )
    title = f"{Path(data).resolve().name} ({report.summary['format']})"
    page = render_view(View(title, splits, _by_image(report, splits), evaluated, notes), path.absolute().parent)
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {reason_of(error)}.", "Name another file (out).") from error
    images, objects = sum(map(len, splits)), sum(int(one.num_objects.sum()) for one in splits)
    return ViewResult(path, images, objects, len(report.problems), None if evaluated is None else evaluated[1])


def _open_all(data: PathLike, reporter: Reporter) -> list[Dataset]:
    """All splits that have images, with one list of classes."""
    opened = [open_dataset(os.fspath(data), name, reporter=reporter) for name in split_names(os.fspath(data))]
    if not opened[0].has_boxes:
        raise DataError(f"'{opened[0].described_by}' has class folders and no boxes.", "Give a data set with boxes.")
    opened = _without_unions(opened)
    names = list(dict.fromkeys(name for one in opened for name in one.names))
    return [one.with_names(names) for one in opened]


def _without_unions(splits: Sequence[Dataset]) -> list[Dataset]:
    """The splits without one that others make up, as trainval in Pascal VOC: its images would be shown twice."""
    images = [{one.file(row) for row in range(len(one))} for one in splits]
    kept = []
    for number, one in enumerate(splits):
        others = [other for place, other in enumerate(images) if place != number and other < images[number]]
        if len(others) < 2 or set().union(*others) != images[number]:
            kept.append(one)
    return kept


def _split_called(splits: Sequence[Dataset], name: str) -> Dataset:
    for one in splits:
        if one.split == name:
            return one
    if len(splits) == 1:
        return splits[0]
    known = ", ".join(one.split for one in splits)
    raise UsageError(f"There is no split '{name}' to evaluate on.", f"Splits are {known}.")


def _by_image(report: CheckReport, splits: Sequence[Dataset]) -> dict[tuple[str, int], list[str]]:
    """The kinds of problem of each image, by split and row: found by the image's file, its label file, or an object."""
    paths: dict[str, tuple[str, int]] = {}
    stems: dict[str, tuple[str, int]] = {}
    annotations: dict[tuple[str, int], tuple[str, int]] = {}
    for split in splits if report.problems else ():
        for row in range(len(split)):
            place = (split.split, row)
            paths[os.path.abspath(split.file(row))] = place
            stems[Path(split.file(row)).stem] = place
            if split.has_ids:
                for number in split.annotation_ids(row).tolist():
                    annotations[(str(split.annotations), number)] = place
    found: dict[tuple[str, int], list[str]] = {}
    for problem in report.problems:
        place_of = _place_of(problem, paths, stems, annotations)
        if place_of is not None:
            found.setdefault(place_of, []).append(problem.code)
    return found


def _place_of(
    problem: Problem,
    paths: dict[str, tuple[str, int]],
    stems: dict[str, tuple[str, int]],
    annotations: dict[tuple[str, int], tuple[str, int]],
) -> tuple[str, int] | None:
    if problem.file is None:
        return None
    if problem.annotation is not None and (problem.file, problem.annotation) in annotations:
        return annotations[(problem.file, problem.annotation)]
    path = Path(problem.file)
    return paths.get(os.path.abspath(path)) or (stems.get(path.stem) if path.suffix in (".txt", ".xml") else None)
