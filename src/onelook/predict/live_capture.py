"""Reads a camera, a stream or a file in real time: a thread keeps the newest frame only, whatever is done with it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onelook.errors import ImageError
from onelook.predict.capture import Capture, FrameTimes, open_capture
from onelook.predict.sources import WHOLE, Excerpt, Source, Video
from onelook.predict.video import DECODED_LATE, no_frame, state_at_end

LIVE_STALL_SECONDS = 5.0
"""How long a camera or a stream may give no frame before it is opened again."""

_STEP = 0.1  # seconds after which a wait looks whether it is to end


class Clock(Protocol):
    """The time, in seconds from any moment on."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this machine; it is never set back."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True, eq=False)
class CapturedFrame:
    """A frame and when it was captured.

    image: (H, W, 3) uint8 BGR, or (H, W) grey.  number: of all frames of the source, from 0.  seconds: its
    time in a file, or after the first frame.  captured: by the clock,
    in seconds: when the frame came, for a file when it was due.  video: what the source says of itself.
    """

    image: np.ndarray
    number: int
    seconds: float
    captured: float
    video: Video


@dataclass(frozen=True)
class End:
    """The end of a source. error: None for the end of a file.  retry: whether the source may come back."""

    error: BaseException | None = None
    retry: bool = False


class FrameSlot:
    """Room for one frame: a newer one takes the place of one that was not taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: CapturedFrame | None = None
        self._is_new = False
        self._end: End | None = None

    def put(self, frame: CapturedFrame) -> None:
        with self._changed:
            self._frame, self._is_new = frame, True
            self._changed.notify()

    def end(self, end: End) -> None:
        with self._changed:
            self._end = end
            self._changed.notify()

    def take(self, timeout: float | None) -> CapturedFrame | End | None:
        """The newest frame, once; then the end. None where nothing has come in `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_new or self._end is not None, timeout)
            if self._is_new:
                self._is_new = False
                return self._frame
            return self._end

    @property
    def newest(self) -> CapturedFrame | None:
        """The newest frame, also where it was taken."""
        with self._changed:
            return self._frame


class LiveCapture:
    """An open source whose newest frame can be taken at any time.

    A file is played at its own rate. Where it cannot be decoded so fast it is played more slowly, as a player does.
    delay: by how many seconds.
    """

    def __init__(
        self,
        source: Source,
        excerpt: Excerpt = WHOLE,
        *,
        clock: Clock | None = None,
        opener: Callable[[Source, float], Capture] = open_capture,
    ) -> None:
        self._source, self._excerpt = source, excerpt
        self._clock, self._opener = clock or SystemClock(), opener
        self._slot, self._stop = FrameSlot(), threading.Event()
        self.delay = 0.0

    def start(self) -> LiveCapture:
        """Begins to read, in a thread."""
        # A daemon: a driver that never answers must not keep the program from ending.
        threading.Thread(target=self.run, name="onelook-live", daemon=True).start()
        return self

    def take(self, timeout: float | None) -> CapturedFrame | End | None:
        """The newest frame, once; then the end. None where nothing has come in `timeout` seconds."""
        return self._slot.take(timeout)

    @property
    def newest(self) -> CapturedFrame | None:
        """The newest frame, also where it was taken."""
        return self._slot.newest

    def close(self) -> None:
        """Ends the reading, without waiting for the driver."""
        self._stop.set()

    def run(self) -> None:
        """Reads until the end of the source."""
        try:
            capture = self._opener(self._source, LIVE_STALL_SECONDS)
            try:
                self._slot.end(self._read(capture))
            finally:
                capture.release()
        except ImageError as error:
            self._slot.end(End(error, retry=self._source.kind == "live"))
        except BaseException as error:  # raised again where the frames are used
            self._slot.end(End(error))

    def _read(self, capture: Capture) -> End:
        clock, excerpt, video = self._clock, self._excerpt, capture.video
        # A file at an address says how long it is, a camera or a stream cannot.
        is_file = self._source.kind == "video" or video.frames > 0
        times = FrameTimes(video.fps, None if is_file else clock.now)
        number, origin, waits = 0, None, deque[float](maxlen=DECODED_LATE)
        while not self._stop.is_set():
            begun = clock.now()
            has_frame = capture.grab()
            waits.append(clock.now() - begun)
            if not has_frame:
                return self._end(number, times.seconds, video, max(waits))
            seconds, number = times.of(capture), number + 1
            if excerpt.ends_before(seconds):
                return End() if self._slot.newest else End(no_frame(self._source, number, seconds, excerpt))
            if not excerpt.has_begun(seconds):
                continue
            if (image := capture.retrieve()) is None:
                return self._end(number - 1, times.seconds, video, max(waits))
            captured = clock.now()
            if is_file:
                origin = captured - seconds if origin is None else origin
                late = captured - (origin + seconds)
                if late > 1 / video.fps:
                    origin, self.delay = origin + late, self.delay + late
                captured = origin + seconds
                self._wait_until(captured)
            self._slot.put(CapturedFrame(image, number - 1, seconds, captured, video))
        return End()

    def _wait_until(self, time: float) -> None:
        while not self._stop.is_set() and (left := time - self._clock.now()) > 0:
            self._clock.sleep(min(left, _STEP))

    def _end(self, number: int, seconds: float, video: Video, waited: float) -> End:
        """How a source has ended. number, seconds: frames that were read, and the time of the last."""
        source = self._source
        if self._slot.newest is None:
            return End(no_frame(source, number, seconds, self._excerpt), retry=source.kind == "live")
        unreadable = state_at_end(source, video, number, seconds, waited=waited, limit=LIVE_STALL_SECONDS)
        if unreadable is None or not unreadable.is_error:
            return End()
        return End(unreadable.error, retry=source.kind == "live" and not video.frames)
