"""Opens videos, cameras and streams: by OpenCV, decoded by hardware where there is any, or by PyAV.

What OpenCV opens without giving a first frame is opened again without hardware, and then by PyAV where that is
installed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Protocol

import cv2
import numpy as np

from onelook.data.images import MAX_PIXELS, kind_of
from onelook.data.paths import other_spelling
from onelook.errors import ImageError, install_command, reason_of
from onelook.predict.sources import Source, Video

FALLBACK_FPS = 25.0
"""The rate of videos and cameras that state none."""

STALL_SECONDS = 30.0
"""How long a camera or a stream may give no frame."""

_FASTEST = 240.0  # frames a second; what is above is the unit of the times, as some screen recorders write it
_FINE_FPS = 60.0  # the rate that is taken instead: no frame of a screen recording is lost at it


class Capture(Protocol):
    """An open video, camera or stream, whose frames come one after another.

    video: what it says of itself.  note: what there is to know of how it is read; "" for nothing.
    """

    video: Video
    note: str

    def read(self) -> np.ndarray | None:
        """The next frame, (H, W, 3) uint8 BGR or (H, W) grey, upright; None at the end."""
        ...

    def grab(self) -> bool:
        """Goes to the next frame without making an image of it; False at the end."""
        ...

    def retrieve(self) -> np.ndarray | None:
        """The image of the frame that was grabbed; None where it cannot be made."""
        ...

    def seconds(self) -> float:
        """The time of the frame in its container, in seconds; it may be no finite number, and need not rise."""
        ...

    def release(self) -> None:
        """Closes it."""
        ...


class OpenCvCapture:
    """A capture of OpenCV."""

    note = ""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._first: np.ndarray | None = None  # read ahead, to know that there is one
        self._ahead = False
        self.video = _describe(capture)

    @property
    def uses_hardware(self) -> bool:
        """Whether frames are decoded by hardware."""
        return self._capture.get(cv2.CAP_PROP_HW_ACCELERATION) > 0

    def has_frame(self) -> bool:
        """Whether there is a first frame."""
        self._first = self.read()
        self._ahead = self._first is not None
        return self._ahead

    def read(self) -> np.ndarray | None:
        if self._ahead:
            self._ahead = False
            return self._first
        with contextlib.suppress(cv2.error):
            read, image = self._capture.read()
            return image if read else None
        return None

    def grab(self) -> bool:
        if self._ahead:
            self._ahead = False
            return True
        self._first = None
        with contextlib.suppress(cv2.error):
            return bool(self._capture.grab())
        return False

    def retrieve(self) -> np.ndarray | None:
        if self._first is not None:
            return self._first
        with contextlib.suppress(cv2.error):
            read, image = self._capture.retrieve()
            return image if read else None
        return None

    def seconds(self) -> float:
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def release(self) -> None:
        self._capture.release()


class AvCapture:
    """A file that PyAV reads: FFmpeg with its own set of decoders. ImageError where it cannot open it either."""

    def __init__(self, path: str) -> None:
        import av

        self._errors = (av.FFmpegError, ValueError)
        self.note = f"'{path}' is read by PyAV, as OpenCV finds no frame in it."
        try:
            self._container = av.open(os.path.abspath(path))  # no part of a name can stand for a protocol
        except self._errors as error:
            raise ImageError(f"'{path}' cannot be opened.", "It is damaged or not a video; replace it.") from error
        if not self._container.streams.video:
            self._container.close()
            raise ImageError(f"'{path}' has no video track.", "Give a video.")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 0)
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        size = stream.codec_context
        self.video = _video(rate, stream.frames or seconds * rate, size.height, size.width)
        self._frames: Iterator[Any] = self._container.decode(stream)
        self._frame: Any = None

    def read(self) -> np.ndarray | None:
        return self.retrieve() if self.grab() else None

    def grab(self) -> bool:
        try:
            self._frame = next(self._frames, None)
        except self._errors:
            self._frame = None
        return self._frame is not None

    def retrieve(self) -> np.ndarray | None:
        try:
            image = self._frame.to_ndarray(format="bgr24")
        except self._errors:
            return None
        return np.ascontiguousarray(np.rot90(image, round(getattr(self._frame, "rotation", 0) / 90)))

    def seconds(self) -> float:
        return float("nan") if self._frame.time is None else float(self._frame.time)

    def release(self) -> None:
        self._container.close()


def open_capture(source: Source, stall: float | None = None) -> Capture:
    """Opens a video, a camera or a stream.

    stall: seconds that a stream may take for a frame; None is STALL_SECONDS. ImageError where nothing opens it, and for
    frames that are too large. A capture without any frame is returned as it is, where OpenCV opens it.
    """
    if source.kind == "video":
        _check_file(source.path)
    limit = STALL_SECONDS if stall is None else stall
    opened = _open_cv(source, not is_camera(source), limit)
    has_frame = opened is not None and opened.has_frame()
    if not has_frame and (source.kind == "video" if opened is None else opened.uses_hardware):
        if opened is not None:
            opened.release()
        opened = _open_cv(source, False, limit)
        has_frame = opened is not None and opened.has_frame()
    capture = opened if has_frame and opened is not None else _opened_by_av(source, opened)
    size = capture.video
    if size.height * size.width > MAX_PIXELS:
        capture.release()
        raise ImageError(
            f"{display_name(source)} has frames of {size.width} x {size.height} pixels; the limit is {MAX_PIXELS:,}.",
            "Make it smaller, or raise the limit with the environment variable ONELOOK_MAX_PIXELS.",
        )
    return capture


def _opened_by_av(source: Source, capture: Capture | None) -> Capture:
    """The file opened by PyAV, or the empty capture of OpenCV where PyAV is not installed or finds nothing either."""
    error: ImageError | None = None
    if source.kind == "video" and find_spec("av") is not None:
        try:
            found = AvCapture(source.path)
        except ImageError as failed:
            error = failed
        else:
            if capture is not None:
                capture.release()
            return found
    if capture is not None:
        return capture
    if error is not None:
        raise error
    if source.kind == "video":
        command = install_command("video")
        remedy = f"It is damaged, not a video, or in a format that this OpenCV cannot read: {command}; or convert it."
    elif is_camera(source):
        remedy = "Check that it is there, and that no other program uses it."
    else:
        remedy = "Check the address, and that this machine reaches it over the network."
    raise ImageError(f"{display_name(source)} cannot be opened.", remedy)


def _open_cv(source: Source, hardware: bool, stall: float) -> OpenCvCapture | None:
    settings = [cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_ANY] if hardware else []
    if source.kind == "live":
        # Opening may take longer than a frame: a stream begins with its next key frame.
        settings += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(1000 * STALL_SECONDS)]
        settings += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(1000 * stall)]
    try:
        if is_camera(source):
            capture = cv2.VideoCapture(int(source.path))
        else:
            # By name only FFmpeg: others would take patterns like 'a%d.jpg' and pipelines for files.
            capture = cv2.VideoCapture(source.address or source.path, cv2.CAP_FFMPEG, settings)
    except cv2.error:
        return None
    return OpenCvCapture(capture) if capture.isOpened() else None


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"'{path}' is not a regular file.", "Name a video file.")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise ImageError(f"'{path}' does not exist.{other_spelling(path)}", "Check the path.") from error
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {reason_of(error)}.", "Check the file.") from error
    if not head:
        raise ImageError(f"'{path}' is empty (0 bytes).", "Replace the file.")
    # Text, for a video reader, may be a play list that names other files.
    if (kind := kind_of(head)) in ("it is text", "it begins with zero bytes", "it is an XML document"):
        raise ImageError(f"'{path}' is not a video: {kind}.", "Replace the file.")


def _describe(capture: cv2.VideoCapture) -> Video:
    rate, frames, height, width = (
        capture.get(what)
        for what in (
            *(cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT),
            *(cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH),
        )
    )
    return _video(rate, frames, height, width)


def _video(rate: float, frames: float, height: float, width: float) -> Video:
    """What a container states, without what cannot be true."""
    rate, frames, height, width = (
        value if np.isfinite(value) and 0 < value < 1e9 else 0.0 for value in (rate, frames, height, width)
    )
    stated = rate or FALLBACK_FPS
    fps = stated if stated <= _FASTEST else _FINE_FPS
    return Video(fps, int(frames * fps / stated), int(height), int(width))


class FrameTimes:
    """The time of each frame, in seconds after the first; never falling.

    clock: of a camera or a stream, whose times are those of this clock; None for a file: by the times in it, or by its
    rate where they do not rise.
    """

    def __init__(self, fps: float, clock: Callable[[], float] | None = None) -> None:
        self._clock, self._fps = clock, fps
        self._first: float | None = None
        self.seconds = 0.0

    def of(self, capture: Capture) -> float:
        """The time of the frame that was just read."""
        now = capture.seconds() if self._clock is None else self._clock()
        if self._first is None:
            self._first = now
            return 0.0
        rising = np.isfinite(now) and now - self._first > self.seconds
        self.seconds = now - self._first if rising else self.seconds + 1 / self._fps
        return self.seconds


def stalled(source: Source, number: int, seconds: float) -> ImageError:
    """The error of a camera or a stream that sends no more frames, though it has not ended."""
    return ImageError(
        f"{display_name(source)} has given no frame for {seconds:.0f} seconds, after {number} frames.",
        "Check the connection, and start again; what came before was used.",
    )


def ended(source: Source, number: int) -> ImageError:
    """The error of a camera or a stream that has ended."""
    return ImageError(f"{display_name(source)} ended after {number} frames.", "Start it again.")


def display_name(source: Source) -> str:
    """A source as messages name it."""
    return f"Camera {source.path}" if is_camera(source) else f"'{source.path}'"


def is_camera(source: Source) -> bool:
    """Whether the source is a camera of this machine."""
    return source.kind == "live" and source.path.isdecimal()
