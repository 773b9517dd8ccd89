"""From images of any kind to detections: resize, run the network, postprocess, map the boxes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeGuard, overload

import numpy as np

from onelook.augment.letterbox import Resize, ResizeTransform
from onelook.config import check_arguments
from onelook.data.images import MAX_PIXELS, decode_image
from onelook.errors import ImageError
from onelook.ops.nms import Postprocess, RawDetections, clips, with_thresholds
from onelook.predict.frames import read_frames
from onelook.predict.runtime import Runtime
from onelook.predict.sources import WHOLE, Excerpt, PreparedImage, Source, UnreadableSource, find_sources
from onelook.predict.track import Result, track_results
from onelook.reporter import PlainReporter, Reporter
from onelook.tracking.tracker import Tracker, TrackerName, named_tracker
from onelook.types import Detections

BATCH = 8


class PilImage(Protocol):
    """What `detect` uses of a PIL image; Pillow itself is not imported."""

    @property
    def mode(self) -> str: ...

    def convert(self, mode: str) -> Any: ...


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | PilImage
"""An image: a path, the bytes of an image file, an (H, W, 3) uint8 RGB array, or a PIL image."""


class Predictor:
    """A detector that is ready to detect.

    runtime: runs the network.  frame: how images are fitted into its input, and boxes mapped back; None is the
    runtime's.  postprocess: how its output becomes detections; None is the runtime's.  batch: most images in one run.
    """

    def __init__(
        self,
        runtime: Runtime,
        frame: Resize | None = None,
        postprocess: Postprocess | None = None,
        *,
        batch: int = BATCH,
    ) -> None:
        self.runtime = runtime
        self.frame = runtime.frame if frame is None else frame
        self.postprocess = runtime.postprocess if postprocess is None else postprocess
        self.batch = batch

    def __repr__(self) -> str:
        (height, width), count = self.size, len(self.class_names)
        return f"{type(self).__name__}({type(self.runtime).__name__}, {height}x{width}, {count} class names)"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by label; empty where they are unknown."""
        return tuple(self.runtime.class_names)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.runtime.size

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The detections in (H, W, 3) uint8 RGB images of any sizes, with the settings of `postprocess`."""
        return self._detect(images, self.postprocess)

    @overload
    def detect(  # type: ignore[overload-overlap]  # a text is a sequence of texts as well; it is taken as a path
        self,
        source: ImageLike,
        confidence: float = ...,
        iou: float = ...,
        *,
        agnostic: bool | None = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: Sequence[ImageLike],
        confidence: float = ...,
        iou: float = ...,
        *,
        agnostic: bool | None = ...,
    ) -> list[Detections]: ...
    def detect(
        self,
        source: ImageLike | Sequence[ImageLike],
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        agnostic: bool | None = None,
    ) -> Detections | list[Detections]:
        """The detections in an image; for a list of images, a list.

        source: a path, an (H, W, 3) uint8 RGB array, a PIL image, or the bytes of an image file; or a list of these.
        confidence: least score, inclusive.  iou: boxes that overlap a better one by more are dropped.
        agnostic: whether boxes of different classes suppress each other, too; None is the predictor's setting,
        normally not.

        Results of a single image, and of arrays, hold the image; results of a list of paths read it again when they
        are drawn, so that a long list needs little memory. Boxes are pixels of the (upright) original, not
        clipped unless `postprocess` says so. For folders, videos and cameras see `stream`.

        Raises ImageError for a file that cannot be decoded and for arrays that are no 8-bit RGB images.
        """
        postprocess = self.settings(confidence, iou, agnostic)
        if not _are_several(source):
            image = read_image(source)
            return replace(self._detect([image], postprocess)[0], source=_name(source))
        images, found = list(source), list[Detections]()
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            for given, result in zip(part, self._detect([read_image(one) for one in part], postprocess)):
                path = _name(given)
                reader = None if path is None else partial(decode_image, path)
                kept = result.image if path is None else None
                found.append(replace(result, source=path, image=kept, read_image=reader))
        return found

    def stream(
        self,
        sources: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str] | int],
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        agnostic: bool | None = None,
        keep_images: bool = False,
        reporter: Reporter | None = None,
    ) -> Iterator[Detections]:
        """The detections in every image and frame of files, folders, globs, videos, cameras and streams, in order.

        sources: one, or a list; a number is a camera.  keep_images: whether results hold their image.  reporter:
        receives a warning for each damaged file; None prints plain lines on standard error.

        One batch is in memory at a time; files are decoded while the network runs. Damaged files in folders and lists
        are left out with a warning; a damaged file given alone is an ImageError.
        """
        given = [sources] if isinstance(sources, str | os.PathLike | int) else list(sources)
        listed = find_sources([str(one) if isinstance(one, int) else os.fspath(one) for one in given])
        postprocess = self.settings(confidence, iou, agnostic)
        with closing(self.stream_sources(listed, postprocess, keep_images=keep_images)) as results:
            yield from _found(results, reporter)

    def track(
        self,
        sources: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str] | int],
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        tracker: Tracker | TrackerName = "bytetrack",
        keep_images: bool = False,
        reporter: Reporter | None = None,
    ) -> Iterator[Detections]:
        """The detections in every frame of videos and cameras, with the identities of the objects in `tracks`.

        confidence: least score of a detection that starts a track; ByteTrack continues tracks with scores from 0.1 on.
        tracker: "bytetrack", "ocsort", or a tracker with settings of its own, which then choose the scores. The other
        arguments are those of `stream`. Identities count from 1 in every video; detections that belong to no track yet
        are left out.
        """
        chosen = named_tracker(tracker, confidence)
        given = [sources] if isinstance(sources, str | os.PathLike | int) else list(sources)
        listed = find_sources([str(one) if isinstance(one, int) else os.fspath(one) for one in given])
        postprocess = self.settings(chosen.detects_from(), iou)
        results = self.stream_sources(listed, postprocess, keep_images=keep_images)
        with closing(track_results(results, chosen, confidence)) as tracked:
            yield from _found(tracked, reporter)

    def stream_sources(
        self,
        sources: Sequence[Source],
        postprocess: Postprocess,
        *,
        keep_images: bool = False,
        excerpt: Excerpt = WHOLE,
        read: Callable[[str], np.ndarray] | None = None,
    ) -> Generator[tuple[PreparedImage, Detections] | tuple[UnreadableSource, None], None, None]:
        """Each image and frame of the sources with its detections, in order; UnreadableSource for what cannot be read.

        excerpt: the frames of videos that are used.  read: decodes the image of a path; None is `decode_image`.

        An image of a camera or a stream does not wait for others; elsewhere `batch` images run together. Closing it
        stops the threads that decode.
        """
        live = any(source.kind == "live" for source in sources)
        frames = read_frames(
            sources, self.frame, self.size, keep=keep_images, excerpt=excerpt, read=read or decode_image
        )
        with closing(_batches(frames, 1 if live else self.batch)) as groups:
            for items in groups:
                framed = [item for item in items if isinstance(item, PreparedImage)]
                results = iter(
                    self.run([item.pixels for item in framed], [item.placement for item in framed], postprocess)
                )
                for item in items:
                    if isinstance(item, UnreadableSource):
                        yield item, None
                    else:
                        yield item, item.attach(next(results))

    def run(
        self, pixels: Sequence[np.ndarray], placements: Sequence[ResizeTransform], postprocess: Postprocess
    ) -> list[Detections]:
        """The detections in resized images, in pixels of the originals; without image and source."""
        found: list[RawDetections] = []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            found += self.runtime(part[0][None] if len(part) == 1 else np.stack(part), postprocess)
        clip = clips(postprocess)
        return [
            Detections(place.to_original(boxes, clip=clip), scores, labels, self.class_names, size=place.source)
            for place, (boxes, scores, labels) in zip(placements, found)
        ]

    def _detect(self, images: Sequence[np.ndarray], postprocess: Postprocess) -> list[Detections]:
        for image in images:
            check_array(image)
        framed = [self.frame(np.ascontiguousarray(image), self.size) for image in images]
        results = self.run([pixels for pixels, _ in framed], [placement for _, placement in framed], postprocess)
        return [replace(result, image=image) for result, image in zip(results, images)]

    def settings(self, confidence: float, iou: float, agnostic: bool | None = None) -> Postprocess:
        """The predictor's postprocessing with these thresholds."""
        check_arguments(Predictor.settings, locals())
        return with_thresholds(self.postprocess, confidence, iou, agnostic)


def _batches(
    items: Iterator[PreparedImage | UnreadableSource], count: int
) -> Generator[list[PreparedImage | UnreadableSource], None, None]:
    """Lists of up to `count` items; closing it closes `items`."""
    waiting: list[PreparedImage | UnreadableSource] = []
    try:
        for item in items:
            waiting.append(item)
            if len(waiting) == count:
                yield waiting
                waiting = []
        if waiting:
            yield waiting
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _found(results: Iterator[Result], reporter: Reporter | None) -> Iterator[Detections]:
    """The detections alone: a source that cannot be read is a warning, or an error where it was given alone."""
    for item, found in results:
        if found is not None:
            yield found
        elif isinstance(item, UnreadableSource):
            if item.alone:
                raise item.error
            (reporter or PlainReporter()).warning(str(item.error))


def _are_several(source: ImageLike | Sequence[ImageLike]) -> TypeGuard[Sequence[ImageLike]]:
    """Whether these are several images: a path and the bytes of a file are sequences too, but one image."""
    return isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview)


def read_image(source: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, bytes, an array or a PIL image; ImageError for anything else."""
    if isinstance(source, np.ndarray):
        return check_array(source)
    if isinstance(source, str | os.PathLike):
        return decode_image(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_image(bytes(source))
    if hasattr(source, "convert") and hasattr(source, "mode"):
        return _from_pil(source)
    kind = type(source).__name__
    if hasattr(source, "detach"):
        raise ImageError("A torch tensor is no image here.", "Give an (H, W, 3) uint8 RGB array: tensor.numpy().")
    raise ImageError(
        f"A {kind} is no image.",
        "Give a path, an (H, W, 3) uint8 RGB array, a PIL image, the bytes of an image file, or a list.",
    )


def check_array(image: np.ndarray) -> np.ndarray:
    """The image itself; ImageError with the way to make it (H, W, 3) uint8 RGB where it is not."""
    said = f"An image is an (H, W, 3) uint8 RGB array, not {image.shape} {image.dtype}."
    if image.ndim == 4:
        raise ImageError(said, "Give a batch as a list of images: list(images).")
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise ImageError(said, "Make grey images RGB: np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2).")
    if image.ndim != 3:
        raise ImageError(said, "Give one image, with rows, columns and three colours.")
    if image.shape[2] != 3:
        hint = "Move the colours to the end: image.transpose(1, 2, 0)." if image.shape[0] == 3 else "Give 3 colours."
        raise ImageError(said, "Leave out the alpha channel: image[..., :3]." if image.shape[2] == 4 else hint)
    if image.dtype != np.uint8:
        floating = np.issubdtype(image.dtype, np.floating)
        how = "(image * 255).round().astype(np.uint8), if it is 0..1" if floating else "image.astype(np.uint8)"
        raise ImageError(said, f"Convert it: {how}.")
    if image.size == 0:
        raise ImageError(f"An image of {image.shape[1]} x {image.shape[0]} pixels is empty.", "Give a larger one.")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"The image has {image.shape[1]} x {image.shape[0]} pixels; the limit is {MAX_PIXELS:,}.",
            "Cut it, or raise the limit with the environment variable ONELOOK_MAX_PIXELS.",
        )
    return image


def _from_pil(image: Any) -> np.ndarray:
    """A PIL image as it is, without turning it: boxes are in its own pixels. Alpha is dropped, 16 bits are scaled."""
    try:
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return check_array(np.repeat(grey[..., None], 3, axis=2))
        if image.mode in ("I", "F"):
            raise ImageError(f"A PIL image of mode '{image.mode}' has no known white.", "Convert it to mode 'RGB'.")
        return check_array(np.array(image.convert("RGB")))
    except (OSError, ValueError, SyntaxError) as error:  # PIL decodes now, and raises these for damaged files
        raise ImageError(f"The PIL image cannot be decoded: {error}.", "Replace the file.") from error


def _name(source: Any) -> str | None:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None
