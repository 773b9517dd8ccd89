"""`onelook.score`: the average precision of a COCO results file."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

from onelook.config import check_arguments
from onelook.evaluation import Evaluation, read_results
from onelook.evaluation import score as score_results
from onelook.evaluation.annotations import read_ground_truth


def score(annotations: str | os.PathLike[str], detections: str | os.PathLike[str]) -> Evaluation:
    """The average precision of a COCO results file, by the COCO protocol.

    annotations: COCO instances file: images, annotations, categories.  detections: COCO results file: a list of
    image_id, category_id, bbox [x, y, width, height], score.

    A number that no object defines is -1. Raises DataError with the file, line and entry of what is wrong.
    """
    check_arguments(score, locals())
    start = perf_counter()
    truth = read_ground_truth(Path(annotations))
    results = read_results(Path(detections), truth)
    read = perf_counter()
    evaluation = score_results(truth, results)
    evaluation.seconds.update(read=read - start, score=perf_counter() - read)
    return evaluation
