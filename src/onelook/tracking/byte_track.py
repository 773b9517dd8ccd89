"""ByteTrack: every detection is associated, also those with low scores (Zhang et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onelook.errors import UsageError
from onelook.ops.numpy_iou import pairwise_iou
from onelook.tracking.box_filter import BoxFilter
from onelook.tracking.matching import assign
from onelook.tracking.track import Track, boxes_of, labels_of
from onelook.types import Detections


@dataclass(frozen=True)
class ByteTrack:
    """The settings of ByteTrack (algorithm 1).

    high: least score of a detection that starts a track, and that is matched first; 0.6 in the paper.  low: least score
    of one that only continues a track.  match: least IoU of the first matching; 0.2 in the paper.  match_low,
    match_new: the same of detections with low scores, and of tracks that have one detection only.  buffer: frames that
    an object may be hidden, and be found again under its identity.
    """

    high: float = 0.6
    low: float = 0.1
    match: float = 0.2
    match_low: float = 0.5
    match_new: float = 0.3
    buffer: int = 30

    def __post_init__(self) -> None:
        check_settings(self.high, self.low, self.buffer)

    def start(self) -> ByteTrackState:
        """The tracker of one video."""
        return ByteTrackState(self)

    def with_confidence(self, confidence: float) -> ByteTrack:
        """With another least score of a detection that starts a track."""
        return replace(self, high=confidence, low=min(self.low, confidence))

    def detects_from(self) -> float:
        """The least score of a detection that the tracker uses."""
        return self.low


def check_settings(high: float, low: float, buffer: int) -> None:
    """UsageError unless the scores are in order and the buffer is a number of frames."""
    if not 0 <= low <= high <= 1:
        raise UsageError(f"The scores of a tracker are {low:g} and {high:g}.", "Give 0 <= low <= high <= 1.")
    if buffer < 0:
        raise UsageError(f"The buffer of a tracker is {buffer} frames.", "Give 0 or more.")


class ByteTrackState:
    """The tracks of one video."""

    def __init__(self, settings: ByteTrack) -> None:
        self.settings, self.tracks = settings, list[Track]()
        self.frame, self.identities = -1, 0

    def update(self, found: Detections) -> Detections:
        """The detections of the next frame that belong to confirmed tracks, with their identities in `tracks`."""
        settings, scores = self.settings, found.scores
        self.frame += 1
        for track in self.tracks:
            track.predict()
        high = np.flatnonzero(scores >= settings.high)
        low = np.flatnonzero((scores >= settings.low) & (scores < settings.high))
        matched: dict[int, Track] = {}
        confirmed = [track for track in self.tracks if track.confirmed]
        remaining, high = self._match(confirmed, found, high, settings.match, matched)
        # Official behaviour: what has been lost for longer is not found again by an uncertain detection.
        recent = [track for track in remaining if track.missed == 1]
        self._match(recent, found, low, settings.match_low, matched)
        new = [track for track in self.tracks if not track.confirmed]
        _, high = self._match(new, found, high, settings.match_new, matched)
        self.tracks = [
            track for track in self.tracks if track.missed == 0 or (track.confirmed and track.missed <= settings.buffer)
        ]
        for row in high.tolist():
            self.identities += 1
            first = BoxFilter.begin(found.boxes[row])
            # What is there in the first frame is no chance detection among tracks.
            track = Track(self.identities, first, int(found.labels[row]), self.frame, confirmed=self.frame == 0)
            self.tracks.append(track)
            matched[row] = track
        return with_identities(found, {row: track for row, track in matched.items() if track.confirmed})

    def _match(
        self,
        tracks: Sequence[Track],
        found: Detections,
        rows: np.ndarray,
        least: float,
        matched: dict[int, Track],
    ) -> tuple[list[Track], np.ndarray]:
        """Matches by IoU within classes, adds to `matched`; returns the tracks and rows that are left."""
        overlap = pairwise_iou(boxes_of(tracks), found.boxes[rows])
        same = labels_of(tracks)[:, None] == found.labels[rows]
        pairs = assign(overlap, same & (overlap >= least))
        for track, column in pairs:
            row = int(rows[column])
            tracks[track].detect(found.boxes[row], self.frame)
            tracks[track].confirmed = True
            matched[row] = tracks[track]
        left = {track for track, _ in pairs}
        columns = [column for _, column in pairs]
        return [track for i, track in enumerate(tracks) if i not in left], np.delete(rows, columns)


def with_identities(found: Detections, matched: dict[int, Track]) -> Detections:
    """The matched detections, best first, with the identities of their tracks."""
    rows = sorted(matched)
    identities = np.array([matched[row].identity for row in rows], np.int64)
    return replace(found[np.array(rows, np.int64)], tracks=identities)
