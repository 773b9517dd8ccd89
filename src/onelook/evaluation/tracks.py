"""Metrics of multi-object tracking: HOTA, IDF1 and MOTA.

HOTA: Luiten et al., IJCV 2021.  IDF1: Ristani et al., ECCV workshops 2016.  MOTA: Bernardin and Stiefelhagen, EURASIP
JIVP 2008. Similarity is the IoU of boxes; the counts of several videos are added before anything is divided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import primitives

from onelook.ops.numpy_iou import pairwise_iou
from onelook.tracking.matching import assign
from onelook.tracking.mot import Tracks
from onelook.types import UNDEFINED, text_repr

THRESHOLDS = np.arange(1, 20) / 20  # of localisation in HOTA: 0.05 to 0.95
MATCH_IOU = 0.5  # of IDF1 and MOTA


@dataclass(frozen=True)
class TrackCounts:
    """What is counted in one video, and can be added.

    objects, detections: boxes of the annotations and of the tracker.  identity_hits: boxes that agree under the best
    one-to-one mapping of identities.  hits: matched boxes at IoU 0.5.  switches: how often an object's match
    has another identity than before.  fragments: how often an object is matched again after it was not.
    hota_hits, associations: (19,) matched boxes at each threshold, and the sum of their association scores.
    """

    objects: int
    detections: int
    identity_hits: int
    hits: int
    switches: int
    fragments: int
    hota_hits: np.ndarray
    associations: np.ndarray

    def __add__(self, other: TrackCounts) -> TrackCounts:
        return TrackCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def metrics(self) -> dict[str, float]:
        """HOTA, DetA, AssA, IDF1, MOTA, each up to 1; -1 where there is neither object nor detection."""
        union = self.objects + self.detections
        if not union:
            return dict.fromkeys(("HOTA", "DetA", "AssA", "IDF1", "MOTA"), UNDEFINED)
        detection = self.hota_hits / (union - self.hota_hits)
        association = self.associations / np.maximum(self.hota_hits, 1)
        wrong = (self.objects - self.hits) + (self.detections - self.hits) + self.switches
        return {
            "HOTA": float(np.sqrt(detection * association).mean()),
            "DetA": float(detection.mean()),
            "AssA": float(association.mean()),
            "IDF1": 2 * self.identity_hits / union,
            "MOTA": 1 - wrong / self.objects if self.objects else UNDEFINED,
        }

    def to_dict(self) -> dict[str, Any]:
        """The metrics and the counts."""
        counts = {
            name: getattr(self, name)
            for name in ("objects", "detections", "hits", "identity_hits", "switches", "fragments")
        }
        misses = {"misses": self.objects - self.hits, "false_positives": self.detections - self.hits}
        return self.metrics | counts | misses


@dataclass(frozen=True, eq=False)
class TrackEvaluation:
    """The tracks of videos, compared with annotations.

    videos: the counts of each, by its name.
    """

    videos: Mapping[str, TrackCounts]

    @property
    def total(self) -> TrackCounts:
        """The counts of all videos."""
        first, *others = self.videos.values()
        return sum(others, start=first)

    @property
    def metrics(self) -> dict[str, float]:
        """HOTA, DetA, AssA, IDF1, MOTA of all videos together."""
        return self.total.metrics

    def to_dict(self) -> dict[str, Any]:
        """The layout of `score --tracks --json`."""
        videos = {name: counts.to_dict() for name, counts in self.videos.items()}
        return {"all": self.total.to_dict(), "videos": videos}

    __repr__ = text_repr

    def __str__(self) -> str:
        shown = "  ".join(
            f"{name} {'-' if value == UNDEFINED else f'{value:.4f}'}" for name, value in self.metrics.items()
        )
        return f"{len(self.videos)} videos: {shown}"


def count_tracks(truth: Tracks, found: Tracks) -> TrackCounts:
    """Compares the tracks of one video with its annotations."""
    objects, object_rows = np.unique(truth.identities, return_inverse=True)
    tracks, track_rows = np.unique(found.identities, return_inverse=True)
    frames = list(_frames(truth, found, object_rows, track_rows))
    shape = len(objects), len(tracks)
    counts = np.bincount(object_rows, minlength=shape[0]), np.bincount(track_rows, minlength=shape[1])
    hota_hits, associations = _hota(frames, *counts)
    hits, switches, fragments = _clear(frames, shape[0])
    return TrackCounts(
        len(truth), len(found), _identity_hits(frames, shape), hits, switches, fragments, hota_hits, associations
    )


_Frame = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows of objects, rows of tracks, IoU of each pair


def _frames(truth: Tracks, found: Tracks, object_rows: np.ndarray, track_rows: np.ndarray) -> Iterator[_Frame]:
    for frame in np.union1d(truth.frames, found.frames).tolist():
        a = slice(*np.searchsorted(truth.frames, [frame, frame + 1]))
        b = slice(*np.searchsorted(found.frames, [frame, frame + 1]))
        yield object_rows[a], track_rows[b], pairwise_iou(truth.boxes[a], found.boxes[b])


def _hota(frames: list[_Frame], objects: np.ndarray, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(19,) matches and sums of association scores.

    Boxes are matched once for all thresholds, so that similar boxes of tracks that agree over the whole video are
    preferred (official evaluation); the paper's matching maximises the score at each threshold.
    """
    shared = np.zeros((len(objects), len(tracks)))
    for a, b, iou in frames:
        union = iou.sum(0)[None] + iou.sum(1)[:, None] - iou
        shared[np.ix_(a, b)] += np.divide(iou, union, out=np.zeros_like(iou), where=union > 0)
    agreement = shared / np.maximum(objects[:, None] + tracks[None] - shared, 1e-9)
    matches = np.zeros((len(THRESHOLDS), *shared.shape))
    for a, b, iou in frames:
        if not iou.size:
            continue
        rows, columns = primitives.lsap(agreement[np.ix_(a, b)] * iou, maximize=True)
        for row, column in zip(rows.tolist(), columns.tolist()):
            reached = iou[row, column] >= THRESHOLDS - 1e-12
            matches[reached, a[row], b[column]] += 1
    scores = matches / np.maximum(objects[:, None] + tracks[None] - matches, 1)
    return matches.sum((1, 2)), (matches * scores).sum((1, 2))


def _identity_hits(frames: list[_Frame], shape: tuple[int, int]) -> int:
    """Boxes that agree under the best one-to-one mapping of objects and tracks."""
    agree = np.zeros(shape)
    for a, b, iou in frames:
        agree[np.ix_(a, b)] += iou >= MATCH_IOU
    if not agree.size:
        return 0
    rows, columns = primitives.lsap(agree, maximize=True)
    return int(agree[rows, columns].sum())


def _clear(frames: list[_Frame], objects: int) -> tuple[int, int, int]:
    """(matches, switches, fragments). A match of the frame before is kept where it still overlaps enough."""
    last = np.full(objects, -1)  # the track that an object was last matched with
    before = np.full(objects, -1)  # the same in the frame before, -1 where it was not matched
    hits = switches = fragments = 0
    for a, b, iou in frames:
        pairs = assign(iou + 1000.0 * (before[a][:, None] == b), iou >= MATCH_IOU)
        now = np.full(objects, -1)
        for row, column in pairs:
            one, track = a[row], b[column]
            switches += int(last[one] not in (-1, track))
            fragments += int(last[one] != -1 and before[one] == -1)
            last[one] = now[one] = track
        hits, before = hits + len(pairs), now
    return hits, switches, fragments
