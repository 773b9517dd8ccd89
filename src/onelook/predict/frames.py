"""Images from sources, framed for the network and in order: decoded by threads while the network runs.

A bounded number of images is ahead, so that memory does not grow with what is read.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onelook.augment.letterbox import Resize
from onelook.data.images import decode_image
from onelook.devices import num_cores
from onelook.errors import ImageError
from onelook.predict.sources import WHOLE, Excerpt, PreparedImage, Source, UnreadableSource

if TYPE_CHECKING:
    from concurrent.futures import Future

_FRAMES_AHEAD = 4


def read_frames(
    sources: Sequence[Source],
    frame: Resize,
    size: tuple[int, int],
    *,
    keep: bool = False,
    workers: int | None = None,
    excerpt: Excerpt = WHOLE,
    ahead: int | None = None,
    read: Callable[[str], np.ndarray] = decode_image,
) -> Iterator[PreparedImage | UnreadableSource]:
    """Every image of the sources, resized for the network, in order; UnreadableSource for what cannot be read.

    keep: whether the original pixels stay with the framed ones.  workers: threads that decode images.  excerpt: the
    frames of videos that are read.  ahead: most images that are decoded before they are asked for; None is one more
    than there are workers.  read: decodes the image of a path. Closing the iterator stops the threads after the images
    they are at.
    """
    if len(sources) == 1 and sources[0].kind == "image":  # no other could be decoded meanwhile
        yield _read_and_resize(sources[0], frame, size, keep, read)
        return
    from concurrent.futures import ThreadPoolExecutor

    workers = min(4, num_cores()) if workers is None else workers
    ahead = workers + 1 if ahead is None else ahead
    pool = ThreadPoolExecutor(workers, thread_name_prefix="onelook-decode")
    waiting: deque[Future[PreparedImage | UnreadableSource]] = deque()
    try:
        for source in sources:
            if source.kind == "image":
                waiting.append(pool.submit(_read_and_resize, source, frame, size, keep, read))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
                continue
            while waiting:
                yield waiting.popleft().result()
            if source.error is not None:
                yield UnreadableSource(source, source.error)
            else:
                yield from _ahead(source, frame, size, keep, excerpt)
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_and_resize(
    source: Source, resize: Resize, size: tuple[int, int], keep_original: bool, decode: Callable[[str], np.ndarray]
) -> PreparedImage | UnreadableSource:
    """Reads a still image and resizes it for the network; UnreadableSource with the cause where it cannot be read."""
    try:
        image = decode(source.path)
    except ImageError as error:
        return UnreadableSource(source, error)
    except MemoryError:
        return UnreadableSource(
            source, ImageError(f"There is not enough memory for '{source.path}'.", "Make it smaller.")
        )
    pixels, placement = resize(image, size)
    return PreparedImage(pixels, placement, source, image=image if keep_original else None)


def _ahead(
    source: Source, frame: Resize, size: tuple[int, int], keep: bool, excerpt: Excerpt
) -> Iterator[PreparedImage | UnreadableSource]:
    """The frames of a video, read by a thread a few frames ahead."""
    import queue
    import threading

    from onelook.predict.capture import STALL_SECONDS, stalled
    from onelook.predict.video import read_video

    ready: queue.Queue[PreparedImage | UnreadableSource | BaseException | None] = queue.Queue(_FRAMES_AHEAD)
    stop = threading.Event()

    def put(item: PreparedImage | UnreadableSource | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def read() -> None:
        try:
            for item in read_video(source, frame, size, keep, excerpt):
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again where the frames are used
            put(error)

    # A daemon: a camera or a stream that never answers must not keep the program from ending.
    thread = threading.Thread(target=read, name="onelook-video", daemon=True)
    thread.start()
    limit, number = (3 * STALL_SECONDS if source.kind == "live" else None), 0
    try:
        while True:
            try:
                item = ready.get(timeout=limit)
            except queue.Empty:
                yield UnreadableSource(source, stalled(source, number, limit or 0.0))
                return
            if item is None:
                return
            number += isinstance(item, PreparedImage)
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=1.0 if source.kind == "live" else 30.0)


def batches_of(
    items: Iterator[PreparedImage | UnreadableSource], count: int
) -> Generator[list[PreparedImage | UnreadableSource], None, None]:
    """Lists of up to `count` items; closing it closes `items`."""
    waiting: list[PreparedImage | UnreadableSource] = []
    try:
        for item in items:
            waiting.append(item)
            del item  # it may be large, and is not held while the next is awaited
            if len(waiting) == count:
                yield waiting
                waiting = []
        if waiting:
            yield waiting
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
