"""Frames of a video, a camera or a stream, with their times. A container's number of frames is taken as an estimate."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

import cv2

from onelook.augment.letterbox import Resize
from onelook.errors import ImageError
from onelook.predict.capture import STALL_SECONDS, Capture, FrameTimes, display_name, ended, open_capture, stalled
from onelook.predict.container import is_cut
from onelook.predict.sources import SAME_TIME, WHOLE, Excerpt, PreparedImage, Source, UnreadableSource, Video

DECODED_LATE = 64
"""Frames that a decoder may still give after the last data have come."""

_WHOLE = 0.9  # of the estimated frames, or of the duration


def read_video(
    source: Source, frame: Resize, size: tuple[int, int], keep: bool, excerpt: Excerpt = WHOLE
) -> Iterator[PreparedImage | UnreadableSource]:
    """The frames of a source, upright by its rotation; UnreadableSource at the end where it was not whole.

    Frames keep their numbers and times in the source where an excerpt leaves some out.
    """
    number = used = reached = 0
    capture: Capture | None = None
    try:
        capture = open_capture(source)
        video = capture.video
        times = FrameTimes(video.fps, time.monotonic if source.kind == "live" else None)
        waits: deque[float] = deque(maxlen=DECODED_LATE)
        while True:
            begun = time.monotonic()
            # Of frames that an excerpt leaves out, no image is made.
            image = capture.read() if excerpt.is_whole else None
            read = image is not None if excerpt.is_whole else capture.grab()
            waits.append(time.monotonic() - begun)
            if not read:
                break
            seconds = times.of(capture)
            if excerpt.ends_before(seconds):
                if not used:
                    raise no_frame(source, number, times.seconds, excerpt)
                return
            number, reached = number + 1, reached + excerpt.has_begun(seconds)
            if not reached or (reached - 1) % excerpt.every:
                continue
            image = capture.retrieve() if image is None else image
            if image is None:
                number -= 1
                break
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
            pixels, placement = frame(image, size)
            yield PreparedImage(pixels, placement, source, number - 1, video, image if keep else None, seconds)
            used += 1
        if not used:
            raise no_frame(source, number, times.seconds, excerpt)
        if capture.note:
            yield UnreadableSource(source, ImageError(capture.note), is_error=False)
        if (
            unreadable := state_at_end(source, video, number, times.seconds, waited=max(waits), limit=STALL_SECONDS)
        ) is not None:
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
            capture = open_capture(source)
        except ImageError:
            continue
        video = capture.video
        capture.release()
        end = video.frames if excerpt.end is None else min(video.frames, excerpt.end * video.fps)
        count += max(0, int(end - excerpt.start * video.fps)) // excerpt.every
    return count


def no_frame(source: Source, number: int, seconds: float, excerpt: Excerpt) -> ImageError:
    """The error where no frame was used. number, seconds: frames that were read, and the time of the last."""
    name = display_name(source)
    if excerpt.end is not None and seconds >= excerpt.end - SAME_TIME:
        message = f"{name} has no frame from {excerpt.start:g} s up to {excerpt.end:g} s."
        return ImageError(message, "Choose a longer part.")
    if number == 0:
        return ImageError(f"No frame can be read from {name}.", "It is damaged or empty; replace it.")
    return ImageError(f"{name} ends at {seconds:.2f} s, before the start of {excerpt.start:g} s.", "Start earlier.")


def state_at_end(
    source: Source, video: Video, number: int, seconds: float, *, waited: float, limit: float
) -> UnreadableSource | None:
    """The error or warning at the end of a source; None where it was read whole.

    number, seconds: frames that were read, and the time of the last.  waited: for a frame, at the end.  limit: how long
    a camera or a stream may give no frame.
    """
    covered = max(number, (seconds + 1 / video.fps) * video.fps)
    whole = covered >= _WHOLE * video.frames
    if source.kind == "live":
        if video.frames and whole:  # a file at an address
            return None
        late = waited > limit / 2
        return UnreadableSource(source, stalled(source, number, waited) if late else ended(source, number))
    estimate = f" of about {video.frames} frames" if video.frames else " frames"
    if is_cut(source.path):
        error = ImageError(
            f"'{source.path}' is truncated: the file ends before its container does, after {number}{estimate}.",
            "Replace the file; the frames before were used.",
        )
        return UnreadableSource(source, error)
    if not whole:
        note = f"'{source.path}' has {number} frames; its container made one expect about {video.frames}."
        return UnreadableSource(source, ImageError(note), is_error=False)
    return None
