"""The interface of trackers, and their names."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from onelook.errors import UsageError, did_you_mean
from onelook.types import Detections

TrackerName = Literal["bytetrack", "ocsort"]
"""A tracker with the settings of its paper: ByteTrack, or OC-SORT."""
ForecastName = Literal["none", "linear", "kalman"]
"""How the boxes of tracked objects are moved to the moment of display."""


class TrackerState(Protocol):
    """The tracks of one video."""

    def update(self, found: Detections) -> Detections:
        """The detections of the next frame that belong to confirmed tracks, with their identities in `tracks`."""
        ...


class Tracker(Protocol):
    """The settings of a tracker."""

    def start(self) -> TrackerState:
        """The tracker of one video."""
        ...

    def with_confidence(self, confidence: float) -> Tracker:
        """With another least score of a detection that starts a track."""
        ...

    def detects_from(self) -> float:
        """The least score of a detection that the tracker uses."""
        ...


TRACKERS = get_args(TrackerName)
"""The names of the trackers."""


def named_tracker(tracker: Tracker | str, confidence: float) -> Tracker:
    """A tracker by its name, whose tracks start from this score; one with settings of its own stays as it is.

    Those with a name have the settings of their papers.
    """
    if not isinstance(tracker, str):
        return tracker
    if tracker not in TRACKERS:
        raise UsageError(
            f"There is no tracker '{tracker}'.{did_you_mean(tracker, TRACKERS)}", f"Give {' or '.join(TRACKERS)}."
        )
    from onelook.tracking.byte_track import ByteTrack
    from onelook.tracking.oc_sort import OcSort

    chosen: Tracker = ByteTrack() if tracker == "bytetrack" else OcSort()
    return chosen.with_confidence(confidence)
