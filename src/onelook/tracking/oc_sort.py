"""OC-SORT: tracking by observations instead of predictions (Cao et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onelook.ops.numpy_iou import pairwise_iou
from onelook.tracking.box_filter import BoxFilter
from onelook.tracking.byte_track import check_settings, with_identities
from onelook.tracking.matching import assign
from onelook.tracking.track import Track, boxes_of, labels_of
from onelook.types import Detections


@dataclass(frozen=True)
class OcSort:
    """The settings of OC-SORT.

    high: least score of a detection.  match: least IoU of a match; 0.3 in the paper.  direction: weight of the
    direction of motion in the matching (lambda, 0.2 in the paper).  steps: frames between the observations that a
    direction is computed from (Delta t, 3 in the paper).  buffer: frames that an object may be hidden.  hits:
    detections after which a track is confirmed; in the first frames all are.
    """

    high: float = 0.6
    match: float = 0.3
    direction: float = 0.2
    steps: int = 3
    buffer: int = 30
    hits: int = 3

    def __post_init__(self) -> None:
        check_settings(self.high, 0.0, self.buffer)

    def start(self) -> OcSortState:
        """The tracker of one video."""
        return OcSortState(self)

    def with_confidence(self, confidence: float) -> OcSort:
        """With another least score of a detection."""
        return replace(self, high=confidence)

    def detects_from(self) -> float:
        """The least score of a detection that the tracker uses."""
        return self.high


class OcSortState:
    """The tracks of one video."""

    def __init__(self, settings: OcSort) -> None:
        self.settings, self.tracks = settings, list[Track]()
        self.frame, self.identities = -1, 0

    def update(self, found: Detections) -> Detections:
        """The detections of the next frame that belong to confirmed tracks, with their identities in `tracks`."""
        settings = self.settings
        self.frame += 1
        for track in self.tracks:
            track.predict()
        rows = np.flatnonzero(found.scores >= settings.high)
        matched: dict[int, Track] = {}
        left, rows = self._match(self.tracks, found, rows, boxes_of(self.tracks), matched, directed=True)
        # Observation-centric recovery (section 4.3): what is left is compared with where it was last seen.
        seen = np.array([track.observations[track.frame] for track in left]).reshape(-1, 4)
        _, rows = self._match(left, found, rows, seen, matched, directed=False)
        self.tracks = [track for track in self.tracks if track.missed <= settings.buffer]
        for row in rows.tolist():
            self.identities += 1
            first = BoxFilter.begin(found.boxes[row])
            track = Track(self.identities, first, int(found.labels[row]), self.frame, observed=first)
            track.observations[self.frame] = found.boxes[row]
            self.tracks.append(track)
            matched[row] = track
        for track in matched.values():
            track.confirmed |= track.hits >= settings.hits or self.frame < settings.hits
        return with_identities(found, {row: track for row, track in matched.items() if track.confirmed})

    def _match(
        self,
        tracks: Sequence[Track],
        found: Detections,
        rows: np.ndarray,
        boxes: np.ndarray,
        matched: dict[int, Track],
        *,
        directed: bool,
    ) -> tuple[list[Track], np.ndarray]:
        """Matches tracks at `boxes` with detections, adds to `matched`; returns the tracks and rows that are left."""
        overlap = pairwise_iou(boxes, found.boxes[rows])
        same = labels_of(tracks)[:, None] == found.labels[rows]
        score = overlap
        if directed and len(tracks) and len(rows):
            agreement = np.stack([self._agreement(track, found.boxes[rows]) for track in tracks])
            score = overlap + self.settings.direction * agreement * found.scores[rows]
        pairs = assign(score, same & (overlap >= self.settings.match))
        for track, column in pairs:
            row = int(rows[column])
            self._observe(tracks[track], found.boxes[row])
            matched[row] = tracks[track]
        left = {track for track, _ in pairs}
        columns = [column for _, column in pairs]
        return [track for i, track in enumerate(tracks) if i not in left], np.delete(rows, columns)

    def _agreement(self, track: Track, boxes: np.ndarray) -> np.ndarray:
        """(K,) -0.5..0.5: whether the way to a detection continues the track's own (observation-centric momentum).

        Both directions are between observations, `steps` frames apart where there are so many (section 4.2).
        """
        last = track.observations[track.frame]
        before = self._earlier(track, track.frame)
        if before is None:
            return np.zeros(len(boxes))
        own = _direction(before, last[None])[0]
        earlier = self._earlier(track, self.frame)
        ways = _direction(last if earlier is None else earlier, boxes)
        angles = np.arccos(np.clip(ways @ own, -1, 1))
        return (np.pi / 2 - angles) / np.pi

    def _earlier(self, track: Track, frame: int) -> np.ndarray | None:
        """The observation `steps` frames before a frame, or the nearest one after that; None where there is none."""
        frames = [one for one in track.observations if frame - self.settings.steps <= one < frame]
        return track.observations[min(frames)] if frames else None

    def _observe(self, track: Track, box: np.ndarray) -> None:
        """A detection of this frame belongs to the track.

        After frames without one, the filter is updated anew along a straight line between the last two observations, so
        that the error it has gathered does not stay (observation-centric re-update, section 4.1).
        """
        gap = self.frame - track.frame
        if gap > 1 and track.observed is not None:
            last, state = track.observations[track.frame].astype(np.float64), track.observed
            for step in range(1, gap):
                state = state.predicted().corrected(last + (box - last) * step / gap)
            track.filter = state.predicted()
        track.detect(box, self.frame)
        track.observed = track.filter
        oldest = self.frame - self.settings.steps - 1
        track.observations = {frame: one for frame, one in track.observations.items() if frame >= oldest}
        track.observations[self.frame] = box


def _direction(start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(K, 2) unit vectors between the centres of boxes; (0, 0) where both are the same."""
    way = (ends[:, :2] + ends[:, 2:]) / 2 - (start[:2] + start[2:]) / 2
    return way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
