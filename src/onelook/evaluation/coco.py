"""The COCO protocol for boxes: twelve numbers, classes, curves and error types, computed by hotcoco.

Average precision is the mean over IoU thresholds 0.50:0.05:0.95 and 101 recall points, with at most 100 detections an
image and class (COCO detection evaluation, cocodataset.org). A number that no object defines is -1, as COCO's own tool
writes it: the AP of a class without objects, the AP of small objects where there are none. Means leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np

from onelook.evaluation.operating import (
    RECALL_TARGETS,
    Calibration,
    OperatingPoint,
    calibration,
    operating_points,
)
from onelook.evaluation.tables import GroundTruth, Results
from onelook.types import UNDEFINED, text_repr

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges: any, < 32^2, 32^2..96^2, > 96^2 square pixels
_BEST1, _BEST10, _BEST100 = range(3)  # detections an image and class that count


@dataclass(frozen=True, eq=False)
class F1Curve:
    """F1, precision and recall against the confidence threshold, at IoU 0.5.

    confidence: (1001,) thresholds 0..1.  f1, precision, recall: (C, 1001); NaN for classes without objects.
    best_confidence: where the mean F1 of the classes is highest (the lowest such threshold), and that mean, `best_f1`.
    """

    confidence: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    best_confidence: float
    best_f1: float


@dataclass(frozen=True, eq=False)
class Confusion:
    """Confusion matrix of the classes.

    matrix: (C + 1, C + 1) counts, rows the annotated class, columns the detected one; the last of each is background:
    the last column holds missed objects, the last row detections of nothing.  confidence: the lowest score counted.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    confidence: float


@dataclass(frozen=True)
class ErrorTypes:
    """AP50 lost to each type of error, and how many errors there are (TIDE, Bolya et al. 2020).

    Types: Cls wrong class, Loc wrong place, Both, Dupe a second detection, Bkg nothing there, Miss not found; FP and FN
    (in `gain` only): all false positives, all false negatives.
    """

    gain: dict[str, float]
    counts: dict[str, int]
    ap50: float


@dataclass(frozen=True)
class ImageScore:
    """One image at IoU 0.5 and one confidence: found, wrongly found, missed."""

    image_id: int
    file: str
    true_positives: int
    false_positives: int
    false_negatives: int
    f1: float


@dataclass(frozen=True)
class LabelSuspect:
    """A confident detection that disagrees with the annotations: kind "wrong_label" or "missing_annotation".

    box: of the detection, annotated_box: of the object with the other label, None where there is none: left, top,
    width, height in pixels.  object: row of that object in the ground truth.
    """

    image_id: int
    file: str
    kind: str
    detected: str
    score: float
    annotated: str | None
    box: tuple[float, ...] = ()
    annotated_box: tuple[float, ...] | None = None
    object: int | None = None


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Detections and objects one by one: which are right, and which are found.

    results: (K,) the detections.  right: (K,) uint8, 1 for a detection that matches an object, 0 for a false positive.
    found: (M,) uint8 of the objects of the ground truth, 1 for one that is found, 0 for a missed one. In both, 2 is
    what does not count: crowds, detections on crowds, and beyond 100 of an image and class.
    """

    results: Results
    right: np.ndarray
    found: np.ndarray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Average precision and recall of a model's detections on a data set.

    truth: the annotations that were compared with.  results: the detections.  stats: AP AP50 AP75 APs APm APl AR1 AR10
    AR100 ARs ARm ARl, each 0..1, or -1 where no object defines it.  per_class: class name -> AP and AP50, in the order
    of the labels.  seconds: wall time by stage.  notes: what the numbers leave out or assume.  written: files that hold
    more.
    """

    truth: GroundTruth = field(repr=False)
    results: Results = field(repr=False)
    stats: dict[str, float]
    per_class: dict[str, dict[str, float]]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The layout of `val --json`: every result as plain data; `notes` only where there are any.

        Undefined numbers are -1 in `stats`, `per_class` and `by_size`, and None elsewhere.
        """
        confusion, errors = self.confusion(self.best_confidence), self.error_types
        plain: dict[str, Any] = {
            "stats": self.stats,
            "per_class": self.per_class,
            "images": len(self.truth.image_ids),
            "detections": len(self.results),
            "seconds": self.seconds,
            "objects": dict(zip(self.truth.names, self.objects.tolist())),
            "by_size": self.by_size,
            "best_confidence": self.best_confidence,
            "best_f1": self.f1_curve.best_f1,
            "operating_points": [vars(point) for point in self.operating_points()],
            "calibration": asdict(self.calibration),
            "error_types": {"gain": errors.gain, "counts": errors.counts},
            "confusion": {"confidence": confusion.confidence, "matrix": confusion.matrix.tolist()},
            "label_suspects": [vars(suspect) for suspect in self.label_suspects()],
            "image_scores": [vars(one) for one in self.image_scores()],
        }
        return plain | ({"notes": list(self.notes)} if self.notes else {})

    __repr__ = text_repr

    def __str__(self) -> str:
        numbers = "  ".join(f"{name} {'-' if value < 0 else f'{value:.4f}'}" for name, value in self.stats.items())
        return f"{len(self.truth.image_ids)} images, {len(self.results)} detections: {numbers}"

    @cached_property
    def objects(self) -> np.ndarray:
        """(C,) objects of each class, crowds left out."""
        return np.bincount(self.truth.labels[~self.truth.crowds], minlength=len(self.truth.names))

    def precision_recall(self, iou: float = 0.5) -> np.ndarray:
        """(C, 101) precision at the recalls `RECALLS`, for one of the thresholds `IOUS`; -1 for undefined classes."""
        return self._arrays["precision"][_iou_row(iou), :, :, _ALL, _BEST100].T

    @cached_property
    def by_size(self) -> dict[str, dict[str, float]]:
        """Class name -> AP of its small, medium and large objects: APs, APm, APl; -1 where there are none."""
        precision = self._arrays["precision"][..., _BEST100]
        sizes = {"APs": _SMALL, "APm": _MEDIUM, "APl": _LARGE}
        return {
            name: {key: _mean(precision[:, :, label, area]) for key, area in sizes.items()}
            for label, name in enumerate(self.truth.names)
        }

    @cached_property
    def f1_curve(self) -> F1Curve:
        """F1 of every class against the confidence threshold."""
        return _f1_curve(self)

    @property
    def best_confidence(self) -> float:
        """The confidence threshold with the highest mean F1 at IoU 0.5."""
        return self.f1_curve.best_confidence

    @property
    def finds_nothing(self) -> bool:
        """Whether no detection is right, so that no confidence is better than another."""
        return self.f1_curve.best_f1 == 0

    @property
    def best_confidence_text(self) -> str:
        """The best confidence with its F1, or that there is none."""
        if self.finds_nothing:
            return "none: no detection is right"
        return f"{self.best_confidence:.2f} (mean F1 {self.f1_curve.best_f1:.3f})"

    def operating_points(self, recalls: Sequence[float] = RECALL_TARGETS) -> list[OperatingPoint]:
        """For each recall the highest confidence that reaches it, with its precision; at IoU 0.5, over all classes."""
        scores, _, right = self._verdicts
        return operating_points(scores, right, int(self.objects.sum()), recalls)

    @cached_property
    def calibration(self) -> Calibration:
        """Whether confidences are the share of right detections, at IoU 0.5."""
        scores, _, right = self._verdicts
        return calibration(scores, right)

    def confusion(self, confidence: float = 0.25, iou: float = 0.45) -> Confusion:
        """Confusion matrix, of the best 100 detections an image with at least this confidence."""
        found = self._evaluator.confusion_matrix(iou_thr=iou, max_det=100, min_score=confidence)
        return Confusion(self.truth.names, found["matrix"].astype(np.int64), confidence)

    @cached_property
    def error_types(self) -> ErrorTypes:
        """AP50 lost to each type of error."""
        found = self._evaluator.tide_errors()
        return ErrorTypes(found["delta_ap"], found["counts"], found["ap_base"])

    def image_scores(self, confidence: float | None = None) -> list[ImageScore]:
        """Every image, worst F1 first (of equals, the one with more mistakes); `best_confidence` by default."""
        summary = self._diagnostics(confidence)["img_summary"]
        # An image with nothing in it and nothing found is left out there; it is right.
        nothing = {"tp": 0, "fp": 0, "fn": 0, "f1": 1.0}
        scores = []
        for row, (image_id, file) in enumerate(zip(self.truth.image_ids.tolist(), self.truth.files)):
            image = summary.get(row, nothing)
            f1 = image["f1"] if image["tp"] or image["fp"] or image["fn"] else 1.0
            scores.append(ImageScore(image_id, file, image["tp"], image["fp"], image["fn"], f1))
        return sorted(scores, key=lambda s: (s.f1, -s.false_positives - s.false_negatives, s.image_id))

    def verdicts(self) -> Verdicts:
        """Which detections from the best confidence on are right, and which objects they find, at IoU 0.5."""
        results = self.results.above(self.best_confidence)
        found = self._diagnostics(None)
        right, seen = np.full(len(results), 2, np.uint8), np.full(len(self.truth.labels), 2, np.uint8)
        for verdict, statuses, good in ((right, found["dt_status"], "tp"), (seen, found["gt_status"], "matched")):
            for number, status in statuses.items():  # ids count from 1, in the order of the arrays
                verdict[number - 1] = status == good
        return Verdicts(results, right, seen)

    def label_suspects(self) -> list[LabelSuspect]:
        """Annotations that may be wrong, the most confident detection against them first."""
        names, truth = self.truth.names, self.truth
        results = self.results.above(self.best_confidence)
        suspects = []
        for found in self._diagnostics(None)["label_errors"]:  # ids count from 1, in the order of the arrays
            row, other = found["image_id"], found["gt_category_id"]
            detected, annotated = names[found["dt_category_id"]], None if other is None else names[other]
            place = int(truth.image_ids[row]), truth.files[row]
            box = tuple(results.boxes[found["dt_id"] - 1].tolist())
            thing = None if found["gt_id"] is None else int(found["gt_id"]) - 1
            own = None if thing is None else tuple(truth.boxes[thing].tolist())
            kind, certainty = str(found["type"]), float(found["dt_score"])
            suspects.append(LabelSuspect(*place, kind, detected, certainty, annotated, box, own, thing))
        return sorted(suspects, key=lambda s: -s.score)

    @cached_property
    def _evaluator(self) -> Any:
        return _evaluate(self.truth, self.results)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return self._evaluator.eval

    @cached_property
    def _verdicts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) scores, labels, and whether a detection is right at IoU 0.5, of the detections that count."""
        status = self._evaluator.image_diagnostics()["dt_status"]  # ids count from 1, in the order of the results
        ids = np.fromiter(status.keys(), np.int64, len(status)) - 1
        right = np.fromiter((value == "tp" for value in status.values()), bool, len(status))
        return self.results.scores[ids], self.results.labels[ids], right

    def _diagnostics(self, confidence: float | None) -> dict[str, Any]:
        threshold = self.best_confidence if confidence is None else confidence
        return _evaluate(self.truth, self.results.above(threshold)).image_diagnostics(score_thr=threshold)


def score(
    truth: GroundTruth | Mapping[str, Any],
    results: Results,
    *,
    seconds: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Evaluates detections against a ground truth, or a COCO dictionary of one.

    No detections is a legal result (AP 0), no objects as well (every number -1).
    """
    if not isinstance(truth, GroundTruth):
        truth = GroundTruth.from_coco(truth)
    evaluator = _evaluate(truth, results)
    arrays = evaluator.eval
    evaluation = Evaluation(
        truth, results, _stats(arrays), _per_class(truth.names, arrays["precision"]), dict(seconds or {}), tuple(notes)
    )
    # The curves asked for later come from the matching that has just been done.
    evaluation.__dict__.update(_evaluator=evaluator, _arrays=arrays)
    return evaluation


def _evaluate(truth: GroundTruth, results: Results) -> Any:
    """hotcoco's evaluator, matched and accumulated; its image and category ids are rows and labels."""
    annotated = hotcoco.COCO.from_arrays(
        [{"id": row, "width": 0, "height": 0} for row in range(len(truth.image_ids))],
        [{"id": label, "name": str(label)} for label in range(len(truth.names))],
        truth.images,
        truth.labels,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowds,
    )
    columns = (results.images[:, None], results.boxes, results.scores[:, None], results.labels[:, None])
    found = annotated.load_res(np.concatenate(columns, axis=1, dtype=np.float64))
    evaluator = hotcoco.COCOeval(annotated, found, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _stats(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    precision, recall = arrays["precision"], arrays["recall"]  # (10, 101, C, 4, 3), (10, C, 4, 3)
    return {
        "AP": _mean(precision[:, :, :, _ALL, _BEST100]),
        "AP50": _mean(precision[0, :, :, _ALL, _BEST100]),
        "AP75": _mean(precision[5, :, :, _ALL, _BEST100]),
        "APs": _mean(precision[:, :, :, _SMALL, _BEST100]),
        "APm": _mean(precision[:, :, :, _MEDIUM, _BEST100]),
        "APl": _mean(precision[:, :, :, _LARGE, _BEST100]),
        "AR1": _mean(recall[:, :, _ALL, _BEST1]),
        "AR10": _mean(recall[:, :, _ALL, _BEST10]),
        "AR100": _mean(recall[:, :, _ALL, _BEST100]),
        "ARs": _mean(recall[:, :, _SMALL, _BEST100]),
        "ARm": _mean(recall[:, :, _MEDIUM, _BEST100]),
        "ARl": _mean(recall[:, :, _LARGE, _BEST100]),
    }


def _per_class(names: Sequence[str], precision: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        name: {
            "AP": _mean(precision[:, :, label, _ALL, _BEST100]),
            "AP50": _mean(precision[0, :, label, _ALL, _BEST100]),
        }
        for label, name in enumerate(names)
    }


def _mean(values: np.ndarray) -> float:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def _iou_row(iou: float) -> int:
    row = int(np.argmin(np.abs(IOUS - iou)))
    if abs(IOUS[row] - iou) > 1e-6:
        raise ValueError(f"IoU {iou} is not one of the protocol's thresholds 0.50, 0.55, ..., 0.95")
    return row


def _f1_curve(evaluation: Evaluation) -> F1Curve:
    """Counts true and false positives above every threshold, class by class."""
    scores, labels, right = evaluation._verdicts
    thresholds = np.linspace(0, 1, 1001)
    bins = np.searchsorted(thresholds, scores, side="right") - 1  # the highest threshold a detection passes
    counts = np.zeros((2, len(evaluation.objects), len(thresholds)))
    passing = bins >= 0
    np.add.at(counts, (right[passing].astype(int), labels[passing], bins[passing]), 1)
    wrong, found = counts[:, :, ::-1].cumsum(-1)[:, :, ::-1]
    objects = np.where(evaluation.objects == 0, np.nan, evaluation.objects)[:, None]
    f1 = 2 * found / (found + wrong + objects)
    with np.errstate(invalid="ignore"):
        precision = found / (found + wrong)  # undefined where nothing passes
    defined = ~np.isnan(f1[:, 0]) if len(f1) else np.zeros(0, bool)
    mean = f1[defined].mean(0) if defined.any() else np.zeros(len(thresholds))
    best = int(np.argmax(mean))
    return F1Curve(thresholds, f1, precision, found / objects, float(thresholds[best]), float(mean[best]))
