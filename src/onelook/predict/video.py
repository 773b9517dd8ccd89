"""Frames of a video, a camera or a stream, with their times. A container's number of frames is taken as an estimate."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from onelook.augment.letterbox import Resize
from onelook.data.images import MAX_PIXELS, kind_of
from onelook.data.paths import other_spelling
from onelook.errors import ImageError, reason_of
from onelook.predict.sources import WHOLE, Excerpt, PreparedImage, Source, UnreadableSource, Video

FALLBACK_FPS = 25.0
"""The rate of videos and cameras that state none."""

STALL_SECONDS = 30.0
"""How long a camera or a stream may give no frame."""

_FASTEST = 240.0  # frames a second; what is above is the unit of the times, as some screen recorders write it
_FINE_FPS = 60.0  # the rate that is taken instead: no frame of a screen recording is lost at it
_DECODED_LATE = 64  # frames that a decoder may still give after the last data have come
_SAME_TIME = 1e-6  # seconds; containers round times
_WHOLE = 0.9  # of the estimated frames, or of the duration

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg would print about a damaged video, ImageError says


def read_video(
    source: Source, frame: Resize, size: tuple[int, int], keep: bool, excerpt: Excerpt = WHOLE
) -> Iterator[PreparedImage | UnreadableSource]:
    """The frames of a source, upright by its rotation; UnreadableSource at the end where it was not whole.

    Frames keep their numbers and times in the source where an excerpt leaves some out.
    """
    number = used = reached = 0
    capture = None
    try:
        capture = _open(source)
        video = _describe(capture)
        _check_size(video, source)
        times = _Times(source, video.fps)
        waits: deque[float] = deque(maxlen=_DECODED_LATE)
        while True:
            begun = time.monotonic()
            # Of frames that an excerpt leaves out, no image is made.
            read, image = _next(capture) if excerpt.is_whole else (_grab(capture), None)
            waits.append(time.monotonic() - begun)
            if not read or (image is None and excerpt.is_whole):
                break
            seconds = times.of(capture)
            if excerpt.end is not None and seconds >= excerpt.end - _SAME_TIME:
                if not used:
                    raise _no_frame(source, number, times.seconds, excerpt)
                return
            number, reached = number + 1, reached + (seconds >= excerpt.start - _SAME_TIME)
            if not reached or (reached - 1) % excerpt.every:
                continue
            if image is None:
                read, image = _retrieve(capture)
            if not read or image is None:
                number -= 1
                break
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
            pixels, placement = frame(image, size)
            yield PreparedImage(pixels, placement, source, number - 1, video, image if keep else None, seconds)
            used += 1
        if not used:
            raise _no_frame(source, number, times.seconds, excerpt)
        if (unreadable := _at_the_end(source, video, number, times.seconds, max(waits))) is not None:
            yield unreadable
    except ImageError as error:
        yield UnreadableSource(source, error)
    finally:
        if capture is not None:
            capture.release()


def count_images(sources: Sequence[Source], excerpt: Excerpt = WHOLE) -> int:
    """About how many images and frames the sources have, as containers state it; nothing of cameras and streams."""
    count = 0
    for source in sources:
        count += source.kind == "image"
        if source.kind != "video":
            continue
        try:
            capture = _open(source)
        except ImageError:
            continue
        video = _describe(capture)
        capture.release()
        end = video.frames if excerpt.end is None else min(video.frames, excerpt.end * video.fps)
        count += max(0, int(end - excerpt.start * video.fps)) // excerpt.every
    return count


def _no_frame(source: Source, number: int, seconds: float, excerpt: Excerpt) -> ImageError:
    """The error where no frame was used. number, seconds: frames that were read, and the time of the last."""
    name = _display_name(source)
    if excerpt.end is not None and seconds >= excerpt.end - _SAME_TIME:
        message = f"{name} has no frame from {excerpt.start:g} s up to {excerpt.end:g} s."
        return ImageError(message, "Choose a longer part.")
    if number == 0:
        return ImageError(f"No frame can be read from {name}.", "It is damaged or empty; replace it.")
    return ImageError(f"{name} ends at {seconds:.2f} s, before the start of {excerpt.start:g} s.", "Start earlier.")


class _Times:
    """The time of each frame, in seconds after the first; never falling.

    Of a file by the times in it, or by its rate where they do not rise; of a camera or a stream by the clock.
    """

    def __init__(self, source: Source, fps: float) -> None:
        self._live, self._fps = source.kind == "live", fps
        self._first: float | None = None
        self.seconds = 0.0

    def of(self, capture: cv2.VideoCapture) -> float:
        """The time of the frame that was just read."""
        now = time.monotonic() if self._live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self._first is None:
            self._first = now
            return 0.0
        rising = np.isfinite(now) and now - self._first > self.seconds
        self.seconds = now - self._first if rising else self.seconds + 1 / self._fps
        return self.seconds


def _at_the_end(source: Source, video: Video, number: int, seconds: float, waited: float) -> UnreadableSource | None:
    """The error or warning at the end of a source; None where it was read whole."""
    covered = max(number, (seconds + 1 / video.fps) * video.fps)
    whole = covered >= _WHOLE * video.frames
    if source.kind == "live":
        if video.frames and whole:  # a file at an address
            return None
        if waited > STALL_SECONDS / 2:
            return UnreadableSource(source, stalled(source, number, waited))
        return UnreadableSource(
            source, ImageError(f"{_display_name(source)} ended after {number} frames.", "Start it again.")
        )
    estimate = f" of about {video.frames} frames" if video.frames else " frames"
    if _is_cut(source.path):
        error = ImageError(
            f"'{source.path}' is truncated: the file ends before its container does, after {number}{estimate}.",
            "Replace the file; the frames before were used.",
        )
        return UnreadableSource(source, error)
    if not whole:
        note = f"'{source.path}' has {number} frames; its container made one expect about {video.frames}."
        return UnreadableSource(source, ImageError(note), is_error=False)
    return None


def stalled(source: Source, number: int, seconds: float) -> ImageError:
    """The error of a camera or a stream that sends no more frames, though it has not ended."""
    return ImageError(
        f"{_display_name(source)} has given no frame for {seconds:.0f} seconds, after {number} frames.",
        "Check the connection, and start again; what came before was used.",
    )


def _is_cut(path: str) -> bool:
    """Whether a file is shorter than its container (AVI, MP4 and MOV, Matroska) says that it is."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(64)
            if head.startswith(b"RIFF"):
                return int.from_bytes(head[4:8], "little") + 8 > length
            if head.startswith(b"\x1aE\xdf\xa3"):
                return _matroska_end(head) > length
            position = 0
            while head[4:8] in _MP4_BOXES and position + 8 <= length:
                file.seek(position)
                head = file.read(16).ljust(16, b"\0")
                (size,) = struct.unpack_from(">I", head)
                size = struct.unpack_from(">Q", head, 8)[0] if size == 1 else size
                if size < 8:  # to the end of the file, or unreadable that the reader has met
                    return False
                position += size
            return position > length
    except (OSError, struct.error, IndexError):
        return False


_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"moof", b"sidx", b"uuid", b"styp"))


def _matroska_end(head: bytes) -> int:
    """Where the segment ends; 0 where it does not say."""
    position = 4
    size, width = _matroska_number(head, position)
    position += width + size
    if head[position : position + 4] != b"\x18\x53\x80\x67":
        return 0
    size, width = _matroska_number(head, position + 4)
    unknown = size == (1 << 7 * width) - 1
    return 0 if unknown else position + 4 + width + size


def _matroska_number(head: bytes, position: int) -> tuple[int, int]:
    """(value, bytes) of a number whose first byte's leading zeros tell its length."""
    width = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
    return value, width


def _next(capture: cv2.VideoCapture) -> tuple[bool, np.ndarray | None]:
    """The next frame."""
    try:
        read, image = capture.read()
    except cv2.error:
        return False, None
    return bool(read), image


def _grab(capture: cv2.VideoCapture) -> bool:
    """Goes to the next frame, without making an image of it."""
    try:
        return bool(capture.grab())
    except cv2.error:
        return False


def _retrieve(capture: cv2.VideoCapture) -> tuple[bool, np.ndarray | None]:
    """The image of the frame."""
    try:
        read, image = capture.retrieve()
    except cv2.error:
        return False, None
    return bool(read), image


def _open(source: Source) -> cv2.VideoCapture:
    if source.kind == "video":
        _check_file(source.path)
    limit = int(1000 * STALL_SECONDS)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    try:
        if _is_camera(source):
            capture = cv2.VideoCapture(int(source.path))
        else:
            # By name only FFmpeg: others would take patterns like 'a%d.jpg' and pipelines for files.
            capture = cv2.VideoCapture(source.path, cv2.CAP_FFMPEG, limits if source.kind == "live" else [])
    except cv2.error as error:
        raise ImageError(f"{_display_name(source)} cannot be opened.", "Check that it is a video.") from error
    if not capture.isOpened():
        if source.kind == "video":
            remedy = "It is damaged, not a video, or in a format that this OpenCV cannot read: convert it to MP4."
        elif _is_camera(source):
            remedy = "Check that it is there, and that no other program uses it."
        else:
            remedy = "Check the address, and that this machine reaches it over the network."
        raise ImageError(f"{_display_name(source)} cannot be opened.", remedy)
    return capture


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
    def number(what: int) -> float:
        value = capture.get(what)
        return value if np.isfinite(value) and 0 < value < 1e9 else 0.0

    height, width = int(number(cv2.CAP_PROP_FRAME_HEIGHT)), int(number(cv2.CAP_PROP_FRAME_WIDTH))
    stated = number(cv2.CAP_PROP_FPS) or FALLBACK_FPS
    fps = stated if stated <= _FASTEST else _FINE_FPS
    return Video(fps, int(number(cv2.CAP_PROP_FRAME_COUNT) * fps / stated), height, width)


def _check_size(video: Video, source: Source) -> None:
    if video.height * video.width > MAX_PIXELS:
        raise ImageError(
            f"{_display_name(source)} has frames of {video.width} x {video.height} pixels; "
            f"the limit is {MAX_PIXELS:,}.",
            "Make it smaller, or raise the limit with the environment variable ONELOOK_MAX_PIXELS.",
        )


def _display_name(source: Source) -> str:
    return f"Camera {source.path}" if _is_camera(source) else f"'{source.path}'"


def _is_camera(source: Source) -> bool:
    return source.kind == "live" and source.path.isdecimal()
