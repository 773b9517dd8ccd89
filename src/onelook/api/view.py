"""`onelook.view`: a data set as one HTML page: images with boxes, statistics, problems, and a model's mistakes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onelook.api.open import Model, PathLike
from onelook.api.validate import validate
from onelook.api.written_files import check_new, suspect_paths, write_all_suspects
from onelook.config import check_arguments
from onelook.data import Dataset
from onelook.data.check import CheckReport, read_and_check
from onelook.data.dataset import dataset_of
from onelook.data.formats.base import ReadSplit
from onelook.data.problem_places import ImageProblems, place_problems
from onelook.errors import DataError, UsageError, UserError, reason_of
from onelook.evaluation import Evaluation
from onelook.evaluation.coco import score
from onelook.evaluation.results import read_results
from onelook.evaluation.tables import GroundTruth
from onelook.files import write_text
from onelook.report.view import View, render_view
from onelook.reporter import PlainReporter, Reporter
from onelook.run_files import RECIPE
from onelook.serving.view_server import PORT, ViewServer
from onelook.types import text_repr

_UNUSABLE = {"image-missing", "image-unreadable", "image-size-mismatch"}  # images that no model is evaluated on


@dataclass(frozen=True)
class ViewResult:
    """The page that was made.

    path: of the page; None where it was served.  images, objects: in it, of all splits.  problems: how many were found.
    evaluated: the evaluation of the split that detections were given or made for; None without.  written: the files
    of suspects.
    """

    path: Path | None
    images: int
    objects: int
    problems: int
    evaluated: Evaluation | None = None
    written: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain data, and `stats` of the evaluation where there is one."""
        path = None if self.path is None else str(self.path)
        plain = {"path": path, "images": self.images, "objects": self.objects, "problems": self.problems}
        return plain if self.evaluated is None else {**plain, "stats": self.evaluated.stats}

    __repr__ = text_repr

    def __str__(self) -> str:
        counts = ((self.images, "image"), (self.objects, "object"), (self.problems, "problem"))
        shown = ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
        shown = "\n".join([shown, *(f"wrote {path}" for path in self.written)])
        if self.path is None:
            return shown
        return f"{shown}\nwrote {self.path}: open it in a browser; it reads the images from where they are"


def view(
    data: PathLike,
    *,
    out: PathLike = "view.html",
    model: Model | None = None,
    weights: PathLike | None = None,
    detections: PathLike | None = None,
    split: str = "val",
    suspects_coco: PathLike | None = None,
    suspects_cvat: PathLike | None = None,
    suspects_label_studio: PathLike | None = None,
    overwrite: bool = False,
    serve: bool = False,
    port: int = PORT,
    reporter: Reporter | None = None,
) -> ViewResult:
    """Writes one HTML page that shows a data set, or serves it; it needs no network.

    data: folder, YAML file or COCO JSON file, of which all splits are shown.  out: the file to write.  model: a model
    that is evaluated on `split`: a name with `weights`, a weights or exported file, or the folder of a run.
    detections: a COCO results file of `split`, instead of a model.  suspects_coco, suspects_cvat,
    suspects_label_studio: files to write for FiftyOne, CVAT and Label Studio, as `onelook.validate` does; they need a
    model or detections.  overwrite: replace files that are there.  serve:
    write no file, and serve the page and its images at http://127.0.0.1:8100/ until Ctrl-C, for this machine only; so
    images in shards and in formats that browsers do not know are shown as well.  port: for `serve`; 0 is any free one.

    The page has the images with their boxes, by class, split, size of the objects and kind of problem (those that
    `onelook check` finds without decoding images), and charts: classes, sizes, shapes, places, classes seen together,
    and how the splits differ. With detections it shows them beside the labels, at the confidence with the best F1, and
    finds false positives, misses and suspect labels; images can be sorted by their loss: the number of missed objects,
    the scores of false positives, and one minus the scores of right detections, all together.

    A data set with errors is shown without the faulty entries, which the page lists with file and line.

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
    suspects = suspect_paths(suspects_coco, suspects_cvat, suspects_label_studio)
    check_new([*suspects.values(), *([] if serve else [path])], overwrite=overwrite)
    if suspects and model is None and detections is None:
        raise UsageError("Without a model or detections, no annotation is suspect.", "Give one of them.")
    options = _Options(model, weights, detections, split, suspects, shown)
    if not serve:
        splits, page, result = _made(data, options, beside=path.absolute().parent)
        _write(path, page)
        return replace(result, path=path)
    with ViewServer(port) as server:  # a port that is taken is said before anything else
        splits, page, result = _made(data, options, beside=None)
        shown.info(f"The page is at {server.address} for this machine only. Ctrl-C ends it.")
        server.show(page, splits)
    return result


@dataclass(frozen=True, eq=False)
class _Options:
    model: Model | None
    weights: PathLike | None
    detections: PathLike | None
    split: str
    suspects: Mapping[str, Path]
    reporter: Reporter


def _made(data: PathLike, options: _Options, beside: Path | None) -> tuple[list[Dataset], str, ViewResult]:
    """The splits, the page, and what it shows. beside: the folder that it is written to; None where it is served."""
    report, read = read_and_check(os.fspath(data), quick=True, reporter=options.reporter)
    splits, problems = _datasets(report, read), _by_image(report, read)
    evaluated = _evaluated(splits, problems, options)
    title = f"{Path(data).resolve().name} ({report.summary['format']})"
    written: tuple[Path, ...] = ()
    if evaluated is not None:
        chosen = _split_called(splits, options.split)
        written = write_all_suspects(options.suspects, chosen, evaluated[1])
    content = View(title, splits, problems, evaluated, _notes(report, evaluated), report.problems, beside is None)
    images, objects = sum(map(len, splits)), sum(int(one.num_objects.sum()) for one in splits)
    evaluation = None if evaluated is None else evaluated[1]
    result = ViewResult(None, images, objects, len(report.problems), evaluation, written)
    return splits, render_view(content, beside or Path()), result


def _evaluated(
    splits: Sequence[Dataset], problems: Mapping[tuple[str, int], ImageProblems], options: _Options
) -> tuple[str, Evaluation] | None:
    """The name of the split that detections were given or made for, and their evaluation; None without."""
    if options.model is None and options.detections is None:
        return None
    chosen = _split_called(splits, options.split)
    if options.model is not None:
        usable = _usable(chosen, problems)
        return chosen.split, validate(options.model, usable, weights=options.weights, reporter=options.reporter)
    truth = GroundTruth.from_coco(chosen.coco_ground_truth())
    return chosen.split, score(truth, read_results(Path(os.fspath(options.detections or "")), truth))


def _write(path: Path, page: str) -> None:
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {reason_of(error)}.", "Name another file (out).") from error


def _notes(report: CheckReport, evaluated: tuple[str, Evaluation] | None) -> list[str]:
    notes = list(report.summary["notes"])
    if evaluated is not None:
        split, found = evaluated
        kept = "none is right" if found.finds_nothing else f"from {found.best_confidence:.2f} on"
        notes.append(f"Detections of the split '{split}': {kept}.")
    return notes


def _datasets(report: CheckReport, read: Sequence[ReadSplit]) -> list[Dataset]:
    """All splits that have images, with one list of classes. DataError where none has."""
    for part in read:
        if not part.source.format.has_boxes:
            raise DataError(
                f"'{part.source.described_by}' has class folders and no boxes.", "Give a data set with boxes."
            )
    opened = _without_unions([dataset_of(part) for part in read if len(part.index)])
    if not opened:
        first = next((problem for problem in report.problems if problem.severity == "error"), None)
        said = (
            "" if first is None else f" The first of {report.summary['errors']} errors: {first.place}: {first.message}"
        )
        raise DataError(
            f"No image of '{report.summary['data']}' can be shown.{said}", "onelook check lists all errors."
        )
    names = list(dict.fromkeys(name for one in opened for name in one.names))
    return [one.with_names(names) for one in opened]


def _usable(dataset: Dataset, problems: Mapping[tuple[str, int], ImageProblems]) -> Dataset:
    """The images that a model can be evaluated on: all that are there, readable, and of their annotated size."""
    bad = {row for (split, row), found in problems.items() if split == dataset.split and found.codes & _UNUSABLE}
    return dataset.view([row for row in range(len(dataset)) if row not in bad]) if bad else dataset


def _by_image(report: CheckReport, read: Sequence[ReadSplit]) -> dict[tuple[str, int], ImageProblems]:
    """The problems of each image, by split and row."""
    found = place_problems(read, report.problems).by_image
    return {(read[number].split, row): problems for (number, row), problems in found.items()}


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
