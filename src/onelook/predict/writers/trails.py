"""Draws the trails of tracked objects: where they were in the last frames."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import cv2
import numpy as np

from onelook.draw import class_colour
from onelook.predict.sources import PreparedImage
from onelook.types import Detections

_LENGTH = 45  # frames


class Trails:
    """The last places of every track of a video: the middle of its box's lower side."""

    def __init__(self) -> None:
        self._source = ""
        self._places: dict[int, deque[tuple[int, float, float]]] = {}

    def draw(self, item: PreparedImage, found: Detections) -> PreparedImage:
        """The frame with the trails of its tracks; without tracks, the frame itself."""
        if found.tracks is None or item.image is None or item.frame is None:
            return item
        if item.source.name != self._source:
            self._source, self._places = item.source.name, {}
        for track, (x1, _, x2, y2) in zip(found.tracks.tolist(), found.boxes.tolist()):
            self._places.setdefault(track, deque(maxlen=_LENGTH)).append((item.frame, (x1 + x2) / 2, y2))
        oldest = item.frame - _LENGTH
        self._places = {track: places for track, places in self._places.items() if places[-1][0] > oldest}
        canvas = np.ascontiguousarray(item.image).copy()
        width = max(1, round(sum(canvas.shape[:2]) / 2 * 0.0028))
        for track, places in self._places.items():
            points = np.array([(x, y) for frame, x, y in places if frame > oldest])
            if len(points) > 1:
                whole = np.round(points * 16).astype(np.int32)
                cv2.polylines(canvas, [whole], False, class_colour(track), width, cv2.LINE_AA, 4)
        return replace(item, image=canvas)
