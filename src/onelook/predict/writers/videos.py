"""The format "video": videos with their detections drawn."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from onelook.errors import UserError
from onelook.files import move, replacing
from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import Output, cannot_write, discard, drawn
from onelook.predict.writers.trails import Trails
from onelook.types import Detections

_LONGEST_PAUSE = 600.0  # seconds that a frame is shown; a longer step in a video's times is an error in them


class Videos:
    """`videos/NAME.mp4`: videos with their detections, as long as they are. Still images are no part of it.

    The file has an even rate, the one that the video states: where its own frames are further apart they are repeated,
    and where several fall into one place, the last of them stays. The sound of files is kept where PyAV is installed.

    notes: whose sound was not kept, and why.
    """

    needs_images: ClassVar[bool] = True

    def __init__(self, output: Output) -> None:
        self._output, self._folder = output, output.folder / "videos"
        self._keeps_sound = output.sound
        self.written: list[Path] = []
        self.notes: list[str] = []
        self._trails = Trails()
        self._open: tuple[str, Path, contextlib.ExitStack, cv2.VideoWriter, tuple[int, int]] | None = None
        self._sound: tuple[Path, str, float] | None = None  # the draft, its source, and the time of its first frame
        self._last: np.ndarray | None = None  # not written yet: how long it is shown is known with the next
        self._place = 0.0  # of the last frame, in frames of the file; may have a fraction
        self._seconds = 0.0
        self._rate = 1.0
        self._count = 0  # frames in the file

    def add(self, item: PreparedImage, found: Detections) -> None:
        if item.frame is None or item.video is None:
            return
        image = drawn(self._trails.draw(item, found), found, self._output)
        if self._open is None or self._open[0] != item.source.name:
            self.close()
            self._begin(item, (image.shape[0], image.shape[1]))
        assert self._open is not None
        height, width = self._open[4]
        if image.shape[:2] != (height, width):  # a stream may change its size
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        self._show_last(item.seconds)
        self._last = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)

    def _show_last(self, until: float | None) -> None:
        """Writes the last frame as often as it is shown until the next, or for one place at the end."""
        if self._last is None or self._open is None:
            return
        pause = 0.0 if until is None else until - self._seconds
        self._place += 1.0 if until is None or pause > _LONGEST_PAUSE else pause * self._rate
        self._seconds = self._seconds if until is None else until
        end = round(self._place)
        while self._count < end:
            self._open[3].write(self._last)
            self._count += 1

    def _begin(self, item: PreparedImage, size: tuple[int, int]) -> None:
        path = self._folder / f"{item.source.name}.mp4"
        opened = contextlib.ExitStack()
        try:
            beside = opened.enter_context(replacing(path, suffix=".mp4"))
        except OSError as error:
            raise cannot_write(path, error) from error
        assert item.video is not None
        height, width = (side - side % 2 or 2 for side in size)  # the codec halves the colour planes
        self._last, self._place, self._count = None, 0.0, 0
        self._seconds, self._rate = item.seconds, item.video.fps
        writer = cv2.VideoWriter(str(beside), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, (width, height))
        if not writer.isOpened():
            discard(opened)
            raise UserError(
                f"The video '{path}' cannot be written.", "Choose another folder (out), or the format json."
            )
        self._open = (item.source.name, path, opened, writer, (height, width))
        self._sound = (
            (beside, item.source.path, item.seconds) if self._keeps_sound and item.source.kind == "video" else None
        )

    def close(self) -> None:
        if self._open is not None:
            _, path, opened, writer, _ = self._open
            self._show_last(None)
            self._open = self._last = None
            writer.release()
            try:
                self._keep_sound()
                opened.close()
            except OSError as error:
                raise cannot_write(path, error) from error
            self.written.append(path)

    def _keep_sound(self) -> None:
        """Puts the source's sound into the draft."""
        if self._sound is None:
            return
        from onelook.predict.writers.sound import keep_sound

        draft, source, begin = self._sound
        target = draft.with_name(f"{draft.stem}-sound.mp4")
        try:
            kept, note = keep_sound(draft, source, begin, target)
            if kept:
                move(target, draft)
        finally:
            target.unlink(missing_ok=True)
        self.notes += [note] if note else []

    def discard(self) -> None:
        if self._open is not None:
            _, _, opened, writer, _ = self._open
            self._open = self._last = None
            writer.release()
            discard(opened)
