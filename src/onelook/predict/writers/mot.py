"""The format "mot": the tracks of videos as MOT text."""

from __future__ import annotations

from typing import ClassVar

from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import GrowingFile, Output
from onelook.tracking.mot import mot_lines
from onelook.types import Detections


class Mot:
    """`tracks/NAME.txt`: one line for each box of a video, as in the MOTChallenge benchmarks.

    In real time two results may be for one frame, the first of them a forecast: the last stays.
    """

    needs_images: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self._folder = output.folder / "tracks"
        self.written = [self._folder]
        self._open: tuple[str, GrowingFile] | None = None
        self._last: tuple[int, str] | None = None  # a frame and its lines, not written before the next frame

    def add(self, item: PreparedImage, found: Detections) -> None:
        if item.frame is None or found.tracks is None:
            return
        if self._open is None or self._open[0] != item.source.name:
            self.close()
            self._open = item.source.name, GrowingFile(self._folder / f"{item.source.name}.txt")
        if self._last is not None and self._last[0] != item.frame:
            self._open[1].write(self._last[1])
        self._last = item.frame, mot_lines(item.frame, found)

    def close(self) -> None:
        if self._open is not None:
            if self._last is not None:
                self._open[1].write(self._last[1])
            self._last = None
            file, self._open = self._open[1], None
            file.close()

    def discard(self) -> None:
        self._last = None
        if self._open is not None:
            file, self._open = self._open[1], None
            file.discard()
