"""`onelook score`: the average precision of a results file, without the model that made it."""

from __future__ import annotations

from pathlib import Path

from onelook.api import score as api
from onelook.cli.command_result import CommandResult
from onelook.cli.views.evaluation import show_evaluation
from onelook.evaluation import Evaluation


def score(annotations: Path, detections: Path, /) -> CommandResult[Evaluation]:
    """Evaluate a COCO results file against COCO annotations.

    Prints the twelve COCO numbers and the classes. A number that no object defines (the AP of small objects where there
    are none) is shown as - and is -1 in the JSON.

    Examples:
        onelook score instances_val.json detections.json --json scores.json

    Args:
        annotations: COCO instances file: images, annotations, categories.
        detections: COCO results file: a list of image_id, category_id, bbox [x, y, width, height], score.
    """
    return CommandResult(api.score(annotations, detections), show_evaluation)
