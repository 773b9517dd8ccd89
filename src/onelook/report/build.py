"""The parts of a training report: metrics, example images with detections, changes to the published recipe."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from onelook.config import diff, to_text
from onelook.data.split import Dataset
from onelook.draw import draw_detections, encode_image
from onelook.errors import ImageError
from onelook.evaluation.coco import Evaluation, ImageScore
from onelook.report.advice import LEAST_SUSPECT
from onelook.report.page import ReportImage

ANNOTATION_COLOUR = (46, 160, 67)
IMAGE_SIDE = 600  # pixels of the longer side of an image in the report, which shows it in a width of about 540
CONFIDENT = 0.7  # the least score of a detection that is called confident
NUM_EXAMPLES = 9


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.csv: a dictionary for each row, numbers as floats, without empty cells."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _number(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def describe_changes(published: Any, used: Any) -> list[tuple[str, str, str]]:
    """The settings that differ from the published recipe, as (path, published, used) in text."""
    return [(change.path, _text(change.before), _text(change.after)) for change in diff(published, used)]


def _text(value: Any) -> str:
    text = to_text(value)
    return text if len(text) <= 160 else text[:157] + "..."


def example_images(
    evaluation: Evaluation, dataset: Dataset, names: Sequence[str], count: int = NUM_EXAMPLES
) -> tuple[list[ReportImage], list[ReportImage]]:
    """The worst and the best images, drawn with annotations (green) and detections.

    Images are ranked by F1 at IoU 0.5; of the best, those with the most objects come first. No image is in both.
    """
    scores = evaluation.image_scores()
    worst = _worst(scores, count)
    shown = {score.image_id for score in worst}
    rest = [score for score in scores if score.image_id not in shown and score.true_positives]
    best = sorted(rest, key=lambda s: (-s.f1, -s.true_positives, s.image_id))[:count]
    row_of = {int(image_id): row for row, image_id in enumerate(dataset.image_ids)}
    drawn = [
        [_drawn(evaluation, dataset, names, score, row_of[score.image_id]) for score in part] for part in (worst, best)
    ]
    return drawn[0], drawn[1]


def worst_images(evaluation: Evaluation, dataset: Dataset, names: Sequence[str], count: int) -> list[ReportImage]:
    """The worst images by F1 at IoU 0.5, drawn with annotations (green) and detections."""
    row_of = {int(image_id): row for row, image_id in enumerate(dataset.image_ids)}
    worst = _worst(evaluation.image_scores(), count)
    return [_drawn(evaluation, dataset, names, score, row_of[score.image_id]) for score in worst]


def _worst(scores: Sequence[ImageScore], count: int) -> list[ImageScore]:
    return [score for score in scores if score.f1 < 1.0][:count]


def _drawn(evaluation: Evaluation, dataset: Dataset, names: Sequence[str], score: ImageScore, row: int) -> ReportImage:
    caption = (
        f"{score.file}: {score.true_positives} found, {score.false_negatives} missed, {score.false_positives} wrong"
    )
    try:
        image = draw_evaluated(evaluation, dataset, names, row)
    except ImageError as error:
        image, caption = np.full((120, 320, 3), 220, np.uint8), f"{caption} (not drawn: {error.message})"
    return ReportImage(encode_image(image, ".jpg", 85), caption)


def draw_evaluated(evaluation: Evaluation, dataset: Dataset, names: Sequence[str], row: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: an image with its annotations (green), and its detections from the best confidence on.

    names: of the evaluation's labels. Raises ImageError where the image cannot be read.
    """
    image = dataset.image(row)
    # Small images are enlarged as well: labels and lines are drawn for the size that the report shows.
    ratio = IMAGE_SIDE / max(image.shape[:2])
    sides = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
    image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    annotated, labels = dataset.boxes(row) * ratio, dataset.labels(row)
    image = draw_detections(image, annotated, None, labels, [""] * len(labels), colour=ANNOTATION_COLOUR, text=False)
    image_id = dataset.image_ids[row]
    results, place = evaluation.results, int(evaluation.truth.rows_of_images(np.array([image_id]))[0])
    found = (results.images == place) & (results.scores >= evaluation.best_confidence)
    order = np.flatnonzero(found)[np.argsort(-results.scores[found], kind="stable")]
    corner, extent = results.boxes[order, :2], results.boxes[order, 2:]
    boxes = np.concatenate([corner, corner + extent], 1) * ratio
    shown = [names[label] for label in results.labels[order]]
    return draw_detections(image, boxes, results.scores[order], results.labels[order], shown)


def read_report_image(path: Path, caption: str) -> ReportImage | None:
    """Reads a JPEG of the run's folder for the report; None if it does not exist."""
    return ReportImage(path.read_bytes(), caption) if path.is_file() else None


def annotation_hints(evaluation: Evaluation) -> list[str]:
    """Lists annotations that look wrong: those that detections with a score from 0.5 on contradict."""
    suspects = [one for one in evaluation.label_suspects() if one.score >= LEAST_SUSPECT][:8]
    if not suspects:
        return []
    listed = [
        f"{s.file}: a {'confident ' if s.score >= CONFIDENT else ''}{s.detected} ({s.score:.2f}) "
        + (f"is annotated as {s.annotated}" if s.annotated else "has no annotation")
        for s in suspects
    ]
    return ["Annotations worth a second look: " + "; ".join(listed) + "."]
