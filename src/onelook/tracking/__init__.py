"""Tracking: gives the detections of a video identities that stay with the objects.

`ByteTrack` and `OcSort` are the settings of the two trackers; `start()` makes the state for one video.
"""

from __future__ import annotations

from onelook.tracking.byte_track import ByteTrack
from onelook.tracking.oc_sort import OcSort
from onelook.tracking.tracker import TRACKERS, Tracker, TrackerName, named_tracker

__all__ = ["TRACKERS", "ByteTrack", "OcSort", "Tracker", "TrackerName", "named_tracker"]
