"""Images from sources, framed for the network and in order: decoded by threads while the network runs.

A bounded number of images is ahead, so that memory does not grow with what is read.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np

from onelook.augment.letterbox import Resize
from onelook.data.images import MAX_PIXELS, decode_image, kind_of
from onelook.errors import ImageError
from onelook.predict.sources import Damage, Framed, Source, Video

FALLBACK_FPS = 25.0
"""The rate of videos and cameras that state none."""

_FRAMES_AHEAD = 4
_WHOLE = 0.9  # of the frames that a video claims must be there: claims of some containers are estimates

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg would print about a damaged video, ImageError says


def read_frames(
    sources: Sequence[Source], frame: Resize, size: tuple[int, int], *, keep: bool = False, workers: int | None = None
) -> Iterator[Framed | Damage]:
    """Every image of the sources, framed, in order; Damage in the place of what cannot be read.

    keep: whether the original pixels stay with the framed ones.  workers: threads that decode images. Closing the
    iterator stops the threads after the images they are at.
    """
    workers = min(4, os.cpu_count() or 1) if workers is None else workers
    pool = ThreadPoolExecutor(workers, thread_name_prefix="onelook-decode")
    waiting: deque[Future[Framed | Damage]] = deque()
    try:
        for source in sources:
            if source.kind == "image":
                waiting.append(pool.submit(_read_image, source, frame, size, keep))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
                continue
            while waiting:
                yield waiting.popleft().result()
            if source.error is not None:
                yield Damage(source, source.error)
            else:
                yield from _ahead(source, frame, size, keep)
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_image(source: Source, frame: Resize, size: tuple[int, int], keep: bool) -> Framed | Damage:
    try:
        image = decode_image(source.path)
    except ImageError as error:
        return Damage(source, error)
    except MemoryError:
        return Damage(source, ImageError(f"There is not enough memory for '{source.path}'.", "Make it smaller."))
    pixels, placement = frame(image, size)
    return Framed(pixels, placement, source, image=image if keep else None)


def _ahead(source: Source, frame: Resize, size: tuple[int, int], keep: bool) -> Iterator[Framed | Damage]:
    """The frames of a video, read by a thread a few frames ahead."""
    ready: queue.Queue[Framed | Damage | BaseException | None] = queue.Queue(_FRAMES_AHEAD)
    stop = threading.Event()

    def put(item: Framed | Damage | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def read() -> None:
        try:
            for item in _read_video(source, frame, size, keep):
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again where the frames are used
            put(error)

    # A daemon: a camera or a stream that never answers must not keep the program from ending.
    thread = threading.Thread(target=read, name="onelook-video", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=1.0 if source.kind == "live" else 30.0)


def _read_video(source: Source, frame: Resize, size: tuple[int, int], keep: bool) -> Iterator[Framed | Damage]:
    number = 0
    capture = None
    try:
        capture = _open(source)
        video = _describe(capture, source)
        while True:
            read, image = _next(capture)
            if not read or image is None:
                break
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
            pixels, placement = frame(image, size)
            yield Framed(pixels, placement, source, number, video, image if keep else None)
            number += 1
        if number == 0:
            raise ImageError(f"No frame can be read from {_called(source)}.", "It is damaged or empty; replace it.")
        if source.kind == "video" and number < _WHOLE * video.frames:
            raise ImageError(
                f"'{source.path}' is damaged or truncated: {number} of {video.frames} frames could be read.",
                "Replace the file; the frames before were used.",
            )
    except ImageError as error:
        yield Damage(source, error)
    finally:
        if capture is not None:
            capture.release()


def _next(capture: cv2.VideoCapture) -> tuple[bool, np.ndarray | None]:
    try:
        read, image = capture.read()
    except cv2.error:
        return False, None
    return bool(read), image


def _open(source: Source) -> cv2.VideoCapture:
    if source.kind == "video":
        _check_file(source.path)
    try:
        if source.path.isdecimal() and source.kind == "live":
            capture = cv2.VideoCapture(int(source.path))
        else:
            # By name only FFmpeg: others would take patterns like 'a%d.jpg' and pipelines for files.
            capture = cv2.VideoCapture(source.path, cv2.CAP_FFMPEG)
    except cv2.error as error:
        raise ImageError(f"{_called(source)} cannot be opened.", "Check that it is a video.") from error
    if not capture.isOpened():
        remedy = {
            "video": "It is damaged, not a video, or in a format that this OpenCV cannot read: convert it to MP4.",
            "live": "Check that it is there, and that no other program uses it.",
        }[source.kind]
        raise ImageError(f"{_called(source)} cannot be opened.", remedy)
    return capture


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"'{path}' is not a regular file.", "Name a video file.")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise ImageError(f"'{path}' does not exist.", "Check the path.") from error
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {error.strerror}.", "Check the file.") from error
    if not head:
        raise ImageError(f"'{path}' is empty (0 bytes).", "Replace the file.")
    # Text, for a video reader, may be a play list that names other files.
    if (kind := kind_of(head)) in ("it is text", "it begins with zero bytes", "it is an XML document"):
        raise ImageError(f"'{path}' is not a video: {kind}.", "Replace the file.")


def _describe(capture: cv2.VideoCapture, source: Source) -> Video:
    def number(what: int) -> float:
        value = capture.get(what)
        return value if np.isfinite(value) and 0 < value < 1e9 else 0.0

    height, width = int(number(cv2.CAP_PROP_FRAME_HEIGHT)), int(number(cv2.CAP_PROP_FRAME_WIDTH))
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{_called(source)} has frames of {width} x {height} pixels; the limit is {MAX_PIXELS:,}.",
            "Make it smaller, or raise the limit with the environment variable ONELOOK_MAX_PIXELS.",
        )
    fps = number(cv2.CAP_PROP_FPS)
    frames = int(number(cv2.CAP_PROP_FRAME_COUNT)) if source.kind == "video" else 0
    return Video(fps if 0 < fps <= 1000 else FALLBACK_FPS, frames, height, width)


def _called(source: Source) -> str:
    camera = source.kind == "live" and source.path.isdecimal()
    return f"Camera {source.path}" if camera else f"'{source.path}'"
