"""The matches of a model's detections, made once, and the AP that follows from them for any weights of the images.

A bootstrap needs the AP of thousands of resampled data sets. The matching of an image does not depend on the other
images, so a resampled data set is the same matches with another weight for each image: how often it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.evaluation.coco import IOUS, RECALLS, Evaluation
from onelook.types import UNDEFINED


@dataclass(frozen=True, eq=False)
class MatchTable:
    """What AP is computed from, at all areas and at most 100 detections an image and class (COCO's main number).

    num_images: I.  num_classes: C.  object_images, object_labels: (M,) of the objects that count.
    images: (K,) image of each detection, ordered by class, then by falling score.  class_starts: (C,) its first
    detection.  A segment is a class and an IoU threshold, number class * 10 + threshold.  hits: (E,) the detections
    that match an object, by segment and rank; segments: (E,) their segment; bounds: (10 C + 1,) where segments begin in
    `hits`.  ignored: (G,) detections that do not count, by segment and rank, such as those on crowds; ignored_before:
    (E,) how many of them are before each hit; ignored_bounds: (10 C + 1,) where segments begin in `ignored`.
    """

    num_images: int
    num_classes: int
    object_images: np.ndarray
    object_labels: np.ndarray
    images: np.ndarray
    class_starts: np.ndarray
    hits: np.ndarray
    segments: np.ndarray
    bounds: np.ndarray
    ignored: np.ndarray
    ignored_before: np.ndarray
    ignored_bounds: np.ndarray

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(C, 10) AP of every class at every threshold of `IOUS`; -1 for classes without objects.

        weights: (I,) whole numbers, how often each image counts; None is once each. Images that count twice have the
        numbers of a data set that holds them twice.
        """
        if weights is None:
            weights = np.ones(self.num_images, np.int64)
        objects = np.bincount(self.object_labels, weights[self.object_images], self.num_classes).astype(np.int64)
        found, precision = self._precision(weights)
        needed = _needed(objects)  # (C, 101)
        large = int(np.max(objects, initial=0)) + 2  # more than any count, so that one search serves all segments
        segments = np.arange(len(self.bounds) - 1).reshape(self.num_classes, len(IOUS))
        keys = found + self.segments * large
        places = np.searchsorted(keys, needed[:, None, :] + segments[:, :, None] * large)
        reached = places < self.bounds[segments + 1][:, :, None]
        values = np.append(precision, 0.0)[np.where(reached, places, len(precision))]
        return np.where(objects[:, None] > 0, values.mean(-1), UNDEFINED)

    def _precision(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(E,) hits of the segment up to each hit; (E,) the highest precision at this hit or a later one."""
        first = self.bounds[self.segments]
        hits = _sums(weights[self.images[self.hits]])
        found = hits[1:] - hits[first]
        ranked, ignored = _sums(weights[self.images]), _sums(weights[self.images[self.ignored]])
        counted = ranked[self.hits + 1] - ranked[self.class_starts[self.segments // len(IOUS)]]
        counted -= ignored[self.ignored_before] - ignored[self.ignored_bounds[self.segments]]
        # One running maximum from the last hit to the first: each segment is raised above all later ones.
        raised = 2.0 * (len(self.bounds) - 2 - self.segments)
        precision = found / np.maximum(counted, 1) + raised
        return found, np.maximum.accumulate(precision[::-1])[::-1] - raised


def match_table(evaluation: Evaluation) -> MatchTable:
    """The matches of an evaluation, by hotcoco's matching."""
    truth, results, evaluator = evaluation.truth, evaluation.results, evaluation._evaluator
    order = np.lexsort((results.images, -results.scores, results.labels))  # stable: equal ones keep their order
    count, classes = len(order), len(truth.names)
    ranks = np.empty(count, np.int64)
    ranks[order] = np.arange(count)
    labels = results.labels[order]
    hits: list[np.ndarray] = []
    ignored: list[np.ndarray] = []
    objects = np.zeros(0, np.int64)
    for threshold in range(len(IOUS)):
        found = evaluator.image_diagnostics(iou_thr=float(IOUS[threshold]))
        status, objects = found["dt_status"], _rows(found["gt_status"])
        rows = ranks[_rows(status)]
        right = np.fromiter((value == "tp" for value in status.values()), bool, len(status))
        counted = np.zeros(count, bool)
        counted[rows] = True
        for places, kept in ((np.sort(rows[right]), hits), (np.flatnonzero(~counted), ignored)):
            kept.append(np.stack([labels[places] * len(IOUS) + threshold, places]))
    hit_segments, hit_places = _by_segment(hits)
    ignored_segments, ignored_places = _by_segment(ignored)
    edges = np.arange(classes * len(IOUS) + 1)
    return MatchTable(
        num_images=len(truth.image_ids),
        num_classes=classes,
        object_images=truth.images[objects],
        object_labels=truth.labels[objects],
        images=results.images[order],
        class_starts=np.searchsorted(labels, np.arange(classes)),
        hits=hit_places,
        segments=hit_segments,
        bounds=np.searchsorted(hit_segments, edges),
        ignored=ignored_places,
        ignored_before=np.searchsorted(
            ignored_segments * (count + 1) + ignored_places, hit_segments * (count + 1) + hit_places
        ),
        ignored_bounds=np.searchsorted(ignored_segments, edges),
    )


def _rows(status: dict[int, str]) -> np.ndarray:
    """The rows of hotcoco's ids, which count from 1 in the order of the arrays that it was given."""
    return np.fromiter(status.keys(), np.int64, len(status)) - 1


def _by_segment(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Segments and places of all thresholds, sorted by segment, then by place."""
    segments, places = np.concatenate(parts, axis=1)
    order = np.lexsort((places, segments))
    return segments[order], places[order]


def _sums(values: np.ndarray) -> np.ndarray:
    """(N,) -> (N + 1,) sums of the values before each place."""
    return np.concatenate([[0], np.cumsum(values)])


def _needed(objects: np.ndarray) -> np.ndarray:
    """(C,) numbers of objects -> (C, 101) the fewest hits, at least one, whose recall reaches each of `RECALLS`.

    Recall is compared as a float, as COCO's tool does: 0.07 of 100 objects are 8 hits there if 7 / 100 is below it.
    """
    count = np.maximum(objects, 1)[:, None]
    fewest = np.floor(count * RECALLS).astype(np.int64) - 1
    for _ in range(3):
        fewest += fewest / count < RECALLS
    return np.maximum(fewest, 1)
