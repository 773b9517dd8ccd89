"""`onelook score`: the average precision of a results file, without the model that made it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from onelook.api import score as api
from onelook.cli.command_result import CommandResult
from onelook.cli.views.evaluation import text_of_evaluation


def score(annotations: Path, detections: Path, /, *, tracks: bool = False) -> CommandResult[Any]:
    """Evaluate a COCO results file against COCO annotations.

    Prints the twelve COCO numbers and the classes. A number that no object defines (the AP of small objects where there
    are none) is shown as - and is -1 in the JSON. With --tracks, both are tracks of videos as MOT text, and HOTA, IDF1
    and MOTA are printed.

    Examples:
        onelook score instances_val.json detections.json --json scores.json
        onelook score annotated/ runs/detect/tracks --tracks

    Args:
        annotations: COCO instances file: images, annotations, categories; of tracks, MOT text, or its folder.
        detections: COCO results file: a list of image_id, category_id, bbox [x, y, width, height], score; of tracks,
            MOT text, or its folder.
        tracks: Compare the tracks of videos.
    """
    if tracks:
        from onelook.cli.views.tracks import show_tracks

        return CommandResult(api.score_tracks(annotations, detections), show_tracks)
    return CommandResult(api.score(annotations, detections), text=partial(text_of_evaluation, thresholds=False))
