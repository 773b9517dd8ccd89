"""The detections of a data set's images, in pixels of the images: whole in batches, or large ones in tiles."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

import numpy as np

from onelook.augment.letterbox import Resize
from onelook.errors import UsageError
from onelook.evaluation.frames import Images, resized_batches
from onelook.evaluation.rectangular import Group
from onelook.ops.nms import Postprocess, RawDetections, clips
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import Runtime
from onelook.predict.tiles import Tiles

DetectedImages = list[tuple[int, RawDetections]]
"""Rows of a data set with the detections of their images."""


class SizedImages(Images, Protocol):
    """Images whose sizes are known before they are decoded."""

    @property
    def sizes(self) -> np.ndarray: ...  # (I, 2) height and width


def detected_batches(
    model: Runtime,
    images: Images,
    postprocess: Postprocess,
    groups: Sequence[Group],
    frame: Resize,
    *,
    workers: int | None,
    seconds: MutableMapping[str, float],
) -> Iterator[DetectedImages]:
    """The detections of every group. seconds: "model" and "decoding" grow by the time that is spent there."""
    clip = clips(postprocess)
    for frames in resized_batches(images, groups, frame, workers=workers):
        start = perf_counter()
        outputs = model(frames.pixels, postprocess)
        seconds["model"] += perf_counter() - start
        seconds["decoding"] += frames.seconds
        yield [
            (row, (placement.to_original(boxes, clip=clip), scores, classes))
            for row, placement, (boxes, scores, classes) in zip(frames.rows, frames.placements, outputs)
        ]


def detected_in_tiles(
    model: Runtime,
    images: SizedImages,
    postprocess: Postprocess,
    rows: Sequence[int],
    tiles: Tiles,
    *,
    batch: int,
    seconds: MutableMapping[str, float],
) -> Iterator[DetectedImages]:
    """The merged detections of each image's tiles; one image is decoded while another is detected.

    batch: most tiles in one run.  seconds: as in `detected_batches`; cutting and merging count as the model's.
    Raises UsageError, before any is decoded, that names an image of too many tiles.
    """
    _check_tile_counts(images, rows, tiles)
    predictor = Predictor(model, batch=batch)
    pool = ThreadPoolExecutor(1, thread_name_prefix="onelook-decode")
    upcoming = iter(rows)

    def begin() -> Future[tuple[np.ndarray, float]] | None:
        row = next(upcoming, None)
        return None if row is None else pool.submit(_decoded, images, row)

    try:
        waiting = begin()
        for row in rows:
            assert waiting is not None  # as many were begun as there are rows
            image, taken = waiting.result()
            waiting = begin()
            start = perf_counter()
            with _names_image(images, row):  # whose size may not be the annotated one
                found = predictor.detect_tiles(image, postprocess, tiles)
            seconds["model"] += perf_counter() - start
            seconds["decoding"] += taken
            yield [(row, (found.boxes, found.scores, found.labels))]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decoded(images: Images, row: int) -> tuple[np.ndarray, float]:
    start = perf_counter()
    return images.image(row), perf_counter() - start


def _check_tile_counts(images: SizedImages, rows: Sequence[int], tiles: Tiles) -> None:
    """Raises UsageError where an image has too many tiles: AP without some of the images would be another number."""
    for row in rows:
        height, width = images.sizes[row].tolist()
        with _names_image(images, row):
            tiles.count((height, width))


@contextmanager
def _names_image(images: SizedImages, row: int) -> Iterator[None]:
    """The error of an image that cannot be cut names it."""
    try:
        yield
    except UsageError as error:
        name = getattr(images, "file_name", None)  # a data set in memory may have none
        which = f"number {row + 1} of the data set" if name is None else f"'{name(row)}'"
        raise UsageError(f"The image {which} cannot be cut. {error.message}", error.remedy) from error
