"""Streaming AP: every frame is compared with the newest output that is finished at its time."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from onelook.evaluation import Evaluation, GroundTruth, score
from onelook.evaluation.tables import Results
from onelook.streaming.pairing import NOTHING, Counters, count, newest_outputs
from onelook.streaming.schedule import Schedule
from onelook.streaming.sequences import Sequence
from onelook.tracking.forecast import Boxes, Forecast, Kind

SMALLEST_AREA = 75  # whole square pixels of a forecast box, official behaviour


@dataclass(frozen=True, eq=False)
class StreamingScore:
    """Streaming AP and what belongs to it. evaluation: its `stats` are sAP, sAP50 and so on, under the COCO names."""

    evaluation: Evaluation
    counters: Counters


def offline_results(results: Results, num_images: int) -> list[Boxes]:
    """The detections of each image, by row."""
    ends = np.searchsorted(results.images, np.arange(num_images + 1))
    table = Boxes(results.boxes.astype(np.float32), results.scores, results.labels)
    return [table.rows(np.arange(start, end)) for start, end in pairwise(ends)]


def streaming_score(
    truth: GroundTruth,
    found: List[Boxes],
    sequences: List[Sequence],
    schedules: List[Schedule],
    sizes: np.ndarray,
    *,
    fps: float = 30.0,
    eta: float = 0.0,
    forecast: Kind | None = None,
) -> StreamingScore:
    """Streaming AP of detections that were made offline, under simulated schedules.

    found: the detections of each image, by row of `truth`.  sequences: with rows of `truth`; all its images are in one.
    sizes: (I, 2) height and width of the images, by row of `truth`.  eta: frames that the query is ahead of the frame.
    forecast: None compares the boxes as they were found.

    Frames before the first output have no detections, and their objects count. Forecasting takes no time.
    """
    parts, counters = [Results.empty()], Counters()
    for sequence, schedule in zip(sequences, schedules, strict=True):
        newest = newest_outputs(schedule, len(sequence), fps, eta)
        counters += count(schedule, newest)
        outputs = [found[sequence.rows[frame]] for frame in schedule.inputs]
        if forecast is None:
            shown = [outputs[j] if j > NOTHING else None for j in newest.tolist()]
        else:
            moved = _forecast(forecast.start(), outputs, schedule.inputs, newest)
            shown = [one and visible(one, sizes[row]) for one, row in zip(moved, sequence.rows.tolist())]
        parts += [_results(row, one) for row, one in zip(sequence.rows.tolist(), shown) if one is not None]
    return StreamingScore(score(truth, Results.join(parts)), counters)


def _forecast(tracks: Forecast, outputs: List[Boxes], inputs: np.ndarray, newest: np.ndarray) -> list[Boxes | None]:
    """The boxes at each frame of one sequence, None before the first output. Outputs that no frame shows are unused."""
    moved: list[Boxes | None] = []
    for output, frames in groupby(enumerate(newest.tolist()), key=lambda pair: pair[1]):
        if output > NOTHING:
            tracks.update(int(inputs[output]), outputs[output])
        moved += [tracks.at(frame) if output > NOTHING else None for frame, _ in frames]
    return moved


def visible(found: Boxes, size: np.ndarray) -> Boxes:
    """The boxes clipped to an image of (height, width); those without a size, or smaller than 75 pixels, left out."""
    height, width = (np.float32(side) for side in size)
    positive = (found.boxes[:, 2:] > 0).all(1)
    left, top, wide, high = found.boxes.T
    right, bottom = (left + wide).clip(0, width), (top + high).clip(0, height)
    left, top = left.clip(0, width), top.clip(0, height)
    boxes = np.stack([left, top, right - left, bottom - top], 1)
    whole = boxes[:, 2:].astype(np.int64)
    return found._replace(boxes=boxes).rows(np.flatnonzero(positive & (whole.prod(1) >= SMALLEST_AREA)))


def _results(row: int, found: Boxes) -> Results:
    images = np.full(len(found.scores), row, np.int64)
    return Results(images, found.labels, found.boxes.astype(np.float64), found.scores.astype(np.float64))
