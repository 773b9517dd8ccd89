"""`onelook.score` and `onelook.score_tracks`: the metrics of results that are in files."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from onelook.config import check_arguments
from onelook.errors import UserError
from onelook.evaluation import Evaluation, read_results
from onelook.evaluation import score as score_results
from onelook.evaluation.annotations import read_ground_truth

if TYPE_CHECKING:
    from onelook.evaluation.tracks import TrackCounts, TrackEvaluation


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


def score_tracks(annotations: str | os.PathLike[str], tracks: str | os.PathLike[str]) -> TrackEvaluation:
    """HOTA, IDF1 and MOTA of the tracks of videos.

    annotations, tracks: files of MOT text, or folders with one NAME.txt a video. In folders of the MOTChallenge
    benchmarks the annotations of a video are NAME/gt/gt.txt. Classes are not compared.

    Raises UserError with the file and the line of what is wrong, and for a video without tracks.
    """
    from onelook.evaluation.tracks import TrackEvaluation

    check_arguments(score_tracks, locals())
    truth, found = Path(annotations), Path(tracks)
    for path in (truth, found):
        if not path.exists():
            raise UserError(f"'{path}' does not exist.", "Check the path.")
    if truth.is_dir() != found.is_dir():
        raise UserError(
            f"'{truth if truth.is_dir() else found}' is a folder, and the other is not.",
            "Give two files, or two folders.",
        )
    if not truth.is_dir():
        return TrackEvaluation({truth.stem: _count(truth, found)})
    videos = {path.stem: path for path in sorted(truth.glob("*.txt"))}
    videos = videos or {path.parent.parent.name: path for path in sorted(truth.glob("*/gt/gt.txt"))}
    if not videos:
        raise UserError(f"'{truth}' has no annotations.", "It holds NAME.txt of each video, or NAME/gt/gt.txt.")
    missing = [name for name in videos if not (found / f"{name}.txt").is_file()]
    if missing:
        raise UserError(
            f"'{found}' has no tracks of '{missing[0]}': there is no '{missing[0]}.txt'.",
            "Track every video; an empty file says that there is nothing.",
        )
    return TrackEvaluation({name: _count(path, found / f"{name}.txt") for name, path in videos.items()})


def _count(truth: Path, found: Path) -> TrackCounts:
    from onelook.evaluation.tracks import count_tracks
    from onelook.tracking.mot import read_mot

    return count_tracks(read_mot(truth, annotations=True), read_mot(found))
