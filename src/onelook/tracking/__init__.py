"""Tracking: gives the detections of a video identities that stay with the objects.

`byte_track.ByteTrack` and `oc_sort.OcSort` are the settings of the two trackers; `start()` makes the state for one
video. `tracker.named_tracker` finds them by name; they are loaded where they are used.
"""
