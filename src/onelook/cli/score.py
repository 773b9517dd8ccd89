"""`onelook score`: what a results file is worth, without the model that made it."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from onelook.evaluation import Evaluation, read_results
from onelook.evaluation import score as score_results
from onelook.evaluation.annotations import read_ground_truth


def score(annotations: Path, detections: Path, /) -> Evaluation:
    """Evaluate a COCO results file against COCO annotations.

    Prints the twelve COCO numbers and the classes. A number that no object defines (the AP of small objects where there
    are none) is shown as - and is -1 in the JSON.

    Examples:
        onelook score instances_val.json detections.json --json scores.json

    Args:
        annotations: COCO instances file: images, annotations, categories.
        detections: COCO results file: a list of image_id, category_id, bbox [x, y, width, height], score.

    Returns:
        The evaluation; `to_dict()` is what `--json` writes.
    """
    start = perf_counter()
    truth = read_ground_truth(annotations)
    results = read_results(detections, truth)
    read = perf_counter()
    evaluation = score_results(truth, results)
    evaluation.seconds.update(read=read - start, score=perf_counter() - read)
    return evaluation
