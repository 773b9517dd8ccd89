"""Leaves images with suspicious annotations out of a training: `--drop-suspicious`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onelook import run_files
from onelook.api.validate import validate
from onelook.data import Dataset
from onelook.data.paths import read_text
from onelook.errors import DataError, UsageError, UserError
from onelook.evaluation import Evaluation
from onelook.evaluation.coco import LabelSuspect, score
from onelook.evaluation.results import read_results
from onelook.evaluation.tables import GroundTruth
from onelook.files import write_text
from onelook.report.build import LEAST_SUSPECT
from onelook.reporter import Reporter

_LIMIT = 1 << 30  # bytes of the list
_MOST = 0.2  # of the images: where a model contradicts more of them, it may be wrong, and few images would be left
_DOUBTFUL = 0.5  # of the images, above which a message says that the model may be wrong


@dataclass(frozen=True, eq=False)
class Suspicious:
    """A training set without the images whose annotations a model contradicts.

    dataset: what is left.  source: the model or the detections.  images: how many there were.  left_out: the suspicious
    annotations, with file, kind, detected class, score, annotated class and boxes.  stayed: those of the other images
    that are contradicted, not more certainly, and stay.
    """

    dataset: Dataset
    source: str
    images: int
    left_out: list[dict[str, Any]]
    stayed: list[dict[str, Any]] = field(default_factory=list)

    def note(self, folder: Path) -> str:
        """What was left out and why, in one line."""
        kinds = Counter(one["kind"] for one in self.left_out)
        wrong, missing = kinds["wrong_label"], kinds["missing_annotation"]
        out, others = self.images - len(self.dataset), len({one["file"] for one in self.stayed})
        more = ""
        if others:
            verb, what = ("is", "it stays") if others == 1 else ("are", "they stay")
            more = f" Of the others, {others} {verb} contradicted too, not more certainly; {what}: a fifth is the most."
        if out + others > _DOUBTFUL * self.images:
            more += " A model that contradicts more than half may be wrong: look with onelook view DATA --model MODEL."
        return (
            f"Left out {out} of {self.images} training images, whose annotations "
            f"'{self.source}' contradicts: {wrong} with another class, {missing} objects without annotation; "
            f"listed in '{folder / run_files.SUSPICIOUS}'.{more}"
        )

    def write(self, folder: Path) -> None:
        """Writes the list to the folder of a run, for the user and for resuming."""
        content = {name: value for name, value in vars(self).items() if name != "dataset"}
        write_text(folder / run_files.SUSPICIOUS, json.dumps(content, ensure_ascii=False, indent=1))


def find_suspicious(training: Dataset, source: str, reporter: Reporter) -> Suspicious:
    """The training set without the images whose annotations are contradicted with a score of 0.5 or more.

    source: a model, or a COCO results file (.json) of the training images. An image is left out whole: an object that
    lacks its annotation, or loses it, would be learnt as background. At most a fifth of the images is left out, those
    with the most certain contradictions; of equal ones, the first in the data set. Raises UserError where no
    detection is right: the model is no help then.
    """
    evaluation = _evaluated(training, source, reporter)
    if evaluation.finds_nothing:
        raise UserError(
            f"No detection of '{source}' on the training images is right, so nothing can be said about annotations.",
            "Give a model that was trained on these classes, or its detections.",
        )
    suspects = [one for one in evaluation.label_suspects() if one.score >= LEAST_SUSPECT]
    contradicted = list(dict.fromkeys(one.image_id for one in suspects))  # the most certain first
    bad = set(contradicted[: int(_MOST * len(training))])
    left_out, stayed = ([_listed(one) for one in suspects if (one.image_id in bad) == out] for out in (True, False))
    return Suspicious(_without(training, bad), source, len(training), left_out, stayed)


def _listed(suspect: LabelSuspect) -> dict[str, Any]:
    return {name: value for name, value in vars(suspect).items() if name != "object"}


def read_suspicious(training: Dataset, folder: Path) -> Suspicious:
    """The same as a run has left it out. DataError where its list is missing or damaged, or names unknown images."""
    path = folder / run_files.SUSPICIOUS
    try:
        content = json.loads(read_text(path, _LIMIT))
        source, images = str(content["source"]), int(content["images"])
        left_out: list[dict[str, Any]] = list(content["left_out"])
        stayed: list[dict[str, Any]] = list(content.get("stayed", ()))
        files, others = ({str(one["file"]) for one in part} for part in (left_out, stayed))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged: {error}.", "Start another run in another folder (out).") from error
    ids = {training.file_name(row): int(image_id) for row, image_id in enumerate(training.image_ids.tolist())}
    if unknown := sorted((files | others) - ids.keys()):
        raise DataError(
            f"'{path}' names '{unknown[0]}', which is not in '{training.described_by}'.",
            "Resume with the data set that the run was started with.",
        )
    return Suspicious(_without(training, {ids[file] for file in files}), source, images, left_out, stayed)


def check_option(given: str | None, before: Mapping[str, Any], *, resume: bool, folder: Path) -> None:
    """UsageError where a resumed run would leave out other images, or several processes might differ in them."""
    if given is None:
        return
    if resume and before.get("drop_suspicious") != given:
        raise UsageError(
            f"The run in '{folder}' was started with drop_suspicious {before.get('drop_suspicious')}.",
            "Leave --drop-suspicious away: the run keeps its list.",
        )
    if not resume and os.environ.get("WORLD_SIZE", "1") != "1" and not _is_results(given):
        raise UsageError(
            "In several processes a model is not asked for suspicious annotations: each might answer differently.",
            "Give its detections: onelook val DATA --split train --model MODEL --detections FILE.json",
        )


def _is_results(source: str) -> bool:
    return source.lower().endswith(".json")


def _evaluated(training: Dataset, source: str, reporter: Reporter) -> Evaluation:
    if not training.has_boxes:
        raise UsageError(
            "A classifier of images has no boxes that could be suspicious.", "Leave --drop-suspicious away."
        )
    if not _is_results(source):
        reporter.info(f"Looking for annotations of the training images that '{source}' contradicts.")
        return validate(source, training, reporter=reporter)
    truth = GroundTruth.from_coco(training.coco_ground_truth())
    return score(truth, read_results(Path(source), truth))


def _without(training: Dataset, image_ids: set[int]) -> Dataset:
    kept = np.flatnonzero(~np.isin(training.image_ids, np.array(sorted(image_ids), np.int64)))
    return training.view(kept) if image_ids else training
