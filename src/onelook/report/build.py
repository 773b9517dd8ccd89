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
from onelook.report.page import ReportImage

ANNOTATION_COLOUR = (46, 160, 67)
MAX_IMAGE_SIDE = 640  # pixels of an image in the report
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
    worst = [score for score in scores if score.f1 < 1.0][:count]
    shown = {score.image_id for score in worst}
    rest = [score for score in scores if score.image_id not in shown and score.true_positives]
    best = sorted(rest, key=lambda s: (-s.f1, -s.true_positives, s.image_id))[:count]
    row_of = {int(image_id): row for row, image_id in enumerate(dataset.image_ids)}
    drawn = [
        [_drawn(evaluation, dataset, names, score, row_of[score.image_id]) for score in part] for part in (worst, best)
    ]
    return drawn[0], drawn[1]


def _drawn(evaluation: Evaluation, dataset: Dataset, names: Sequence[str], score: ImageScore, row: int) -> ReportImage:
    caption = (
        f"{score.file}: {score.true_positives} found, {score.false_negatives} missed, {score.false_positives} wrong"
    )
    try:
        image = dataset.image(row)
    except ImageError as error:
        image, caption = np.full((120, 320, 3), 220, np.uint8), f"{caption} (not drawn: {error.message})"
    ratio = min(1.0, MAX_IMAGE_SIDE / max(image.shape[:2]))
    if ratio < 1:
        sides = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
        image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    annotated, labels = dataset.boxes(row) * ratio, dataset.labels(row)
    image = draw_detections(image, annotated, None, labels, [""] * len(labels), colour=ANNOTATION_COLOUR, text=False)
    results, place = evaluation.results, int(evaluation.truth.rows_of_images(np.array([score.image_id]))[0])
    found = (results.images == place) & (results.scores >= evaluation.best_confidence)
    order = np.flatnonzero(found)[np.argsort(-results.scores[found], kind="stable")]
    corner, extent = results.boxes[order, :2], results.boxes[order, 2:]
    boxes = np.concatenate([corner, corner + extent], 1) * ratio
    shown = [names[label] for label in results.labels[order]]
    image = draw_detections(image, boxes, results.scores[order], results.labels[order], shown)
    return ReportImage(encode_image(image, ".jpg", 85), caption)


def read_report_image(path: Path, caption: str) -> ReportImage | None:
    """Reads a JPEG of the run's folder for the report; None if it does not exist."""
    return ReportImage(path.read_bytes(), caption) if path.is_file() else None


def annotation_hints(evaluation: Evaluation) -> list[str]:
    """Lists annotations that look wrong: those that confident detections contradict."""
    suspects = evaluation.label_suspects()[:8]
    if not suspects:
        return []
    listed = [
        f"{s.file}: a confident {s.detected} ({s.score:.2f}) "
        + (f"is annotated as {s.annotated}" if s.annotated else "has no annotation")
        for s in suspects
    ]
    return ["Annotations worth a second look: " + "; ".join(listed) + "."]
