"""From images of any kind to detections: frame, run, select, map back."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, overload

import numpy as np

from onelook.augment.letterbox import Resize, ResizeTransform
from onelook.data.images import MAX_PIXELS, decode_image
from onelook.errors import ImageError
from onelook.ops.nms import Postprocess, RawDetections, with_thresholds
from onelook.predict.backends import Backend
from onelook.predict.frames import read_frames
from onelook.predict.sources import Damage, find_sources
from onelook.types import Detections

BATCH = 8


class Predictor:
    """A detector that is ready to be used.

    backend: the network.  frame: how images come into its input, and boxes back; what the backend says, if None.
    select: which of its boxes are detections; how the backend says, if None.  batch: most images in one run.
    """

    def __init__(
        self, backend: Backend, frame: Resize | None = None, select: Postprocess | None = None, *, batch: int = BATCH
    ) -> None:
        self.backend = backend
        self.frame = backend.frame if frame is None else frame
        self.select = backend.select if select is None else select
        self.batch = batch

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by label; empty where the model knows none."""
        return tuple(self.backend.class_names)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.backend.size

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of (H, W, 3) uint8 RGB images of any sizes, with the settings of `select`."""
        return self._detect(images, self.select)

    @overload
    def detect(
        self,
        source: str | os.PathLike[str] | np.ndarray,
        confidence: float = ...,
        iou: float = ...,
        *,
        agnostic: bool | None = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: list[Any] | tuple[Any, ...],
        confidence: float = ...,
        iou: float = ...,
        *,
        agnostic: bool | None = ...,
    ) -> list[Detections]: ...
    @overload
    def detect(self, source: Any, confidence: float = ..., iou: float = ..., *, agnostic: bool | None = ...) -> Any: ...
    def detect(self, source: Any, confidence: float = 0.25, iou: float = 0.45, *, agnostic: bool | None = None) -> Any:
        """What is in an image: a path, an (H, W, 3) uint8 RGB array or a PIL image; of a list, a list.

        confidence: least score, inclusive.  iou: boxes that overlap a better one by more are dropped.
        agnostic: whether better boxes of other classes count too, as in the official YOLOX demos; None is the
        predictor's setting, normally not.

        Results of a single image, and of arrays, hold the image; results of a list of paths read it again when they
        are drawn, so that a long list needs little memory. Boxes are unclipped pixels of the (upright) original. For
        folders, videos and cameras see `stream`.

        Raises ImageError for a file that cannot be decoded and for arrays that are no 8-bit RGB images.
        """
        select = self.settings(confidence, iou, agnostic)
        if not isinstance(source, list | tuple):
            image = load(source)
            return replace(self._detect([image], select)[0], source=_name(source))
        found: list[Detections] = []
        for start in range(0, len(source), self.batch):
            part = source[start : start + self.batch]
            for given, result in zip(part, self._detect([load(one) for one in part], select)):
                lazy = _name(given) is not None
                reader = partial(decode_image, given) if lazy else None
                kept = None if lazy else result.image
                found.append(replace(result, source=_name(given), image=kept, read_image=reader))
        return found

    def stream(
        self,
        sources: Any,
        confidence: float = 0.25,
        iou: float = 0.45,
        *,
        agnostic: bool | None = None,
        keep_images: bool = False,
    ) -> Iterator[Detections]:
        """Detections of every image and frame of files, folders, globs, videos, cameras and stream addresses, in order.

        sources: one, or a list. One image or batch is in memory at a time; files are decoded while the network runs.
        Damaged files in folders and lists are left out with a warning; a damaged file given alone is an ImageError.
        """
        import warnings

        select = self.settings(confidence, iou, agnostic)
        given = list(sources) if isinstance(sources, list | tuple) else [sources]
        listed = find_sources([os.fspath(one) if not isinstance(one, int) else str(one) for one in given])
        for items in batches(read_frames(listed, self.frame, self.size, keep=keep_images), self.batch):
            framed = [item for item in items if not isinstance(item, Damage)]
            results = iter(self.run([item.pixels for item in framed], [item.placement for item in framed], select))
            for item in items:
                if isinstance(item, Damage):
                    if item.alone:
                        raise item.error
                    warnings.warn(str(item.error), stacklevel=2)
                else:
                    yield item.attach(next(results))

    def run(
        self, pixels: Sequence[np.ndarray], placements: Sequence[ResizeTransform], select: Postprocess
    ) -> list[Detections]:
        """Detections of framed images, in pixels of the originals; without image and source."""
        found: list[RawDetections] = []
        for start in range(0, len(pixels), self.batch):
            found += self.backend(np.stack(pixels[start : start + self.batch]), select)
        return [
            Detections(place.to_original(boxes), scores, labels, self.class_names, size=place.source)
            for place, (boxes, scores, labels) in zip(placements, found)
        ]

    def _detect(self, images: Sequence[np.ndarray], select: Postprocess) -> list[Detections]:
        for image in images:
            check_array(image)
        framed = [self.frame(np.ascontiguousarray(image), self.size) for image in images]
        results = self.run([pixels for pixels, _ in framed], [placement for _, placement in framed], select)
        return [replace(result, image=image) for result, image in zip(results, images)]

    def settings(self, confidence: float, iou: float, agnostic: bool | None = None) -> Postprocess:
        """The predictor's way of selecting, with these thresholds."""
        return with_thresholds(self.select, confidence, iou, agnostic)


def batches(items: Iterator[Any], count: int) -> Generator[list[Any], None, None]:
    """Lists of up to `count` items; closing it closes `items`."""
    waiting: list[Any] = []
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


def load(source: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, an array or a PIL image; ImageError for anything else."""
    if isinstance(source, np.ndarray):
        return check_array(source)
    if isinstance(source, str | os.PathLike):
        return decode_image(source)
    if hasattr(source, "convert") and hasattr(source, "mode"):
        return _from_pil(source)
    kind = type(source).__name__
    if hasattr(source, "detach"):
        raise ImageError("A torch tensor is no image here.", "Give an (H, W, 3) uint8 RGB array: tensor.numpy().")
    raise ImageError(f"A {kind} is no image.", "Give a path, an (H, W, 3) uint8 RGB array, a PIL image, or a list.")


def check_array(image: np.ndarray) -> np.ndarray:
    """The image itself; ImageError saying how to make it (H, W, 3) uint8 RGB if it is not."""
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
