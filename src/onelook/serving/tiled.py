"""Large images in the server: their tiles are jobs like other images, so that requests take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from onelook.ops.nms import Postprocess
from onelook.predict.tiles import PreparedView, Tiles
from onelook.serving.batching import Job, JobResult
from onelook.serving.served_model import MOST_DETECTIONS, ResizedImage, ServedModel
from onelook.serving.service import Service, run_job

T = TypeVar("T")
_SHARE = 4  # images that are cut, all in work at once, take a quarter of the queue each


@dataclass(frozen=True)
class DetectSettings:
    """How the images of a request are detected.

    deadline, start_by: when a request has to be done, and when its first run must have begun, on the clock of
    `time.monotonic`.  keep: whether answers hold the image.  tiles: how large images are cut.
    """

    postprocess: Postprocess
    deadline: float
    start_by: float
    keep: bool
    tiles: Tiles | None


async def detect_tiles(service: Service, model: ServedModel, image: np.ndarray, settings: DetectSettings) -> JobResult:
    """The merged detections of an image's tiles; the times of queue and inference are those of all its batches.

    A batch of tiles is in the queue at a time: other requests come between, and memory holds the image and one batch.
    The image takes more places in the queue than its own, so that few large images are in work at once.
    ServiceError 503 where the queue has no room for it.
    """
    tiles = settings.tiles
    assert tiles is not None  # the caller has looked
    count = tiles.count((image.shape[0], image.shape[1]))
    more = min(count, model.capacity, max(model.batch, model.capacity // _SHARE)) - 1
    found, queue, inference, start_by = [], 0.0, 0.0, settings.start_by
    with service.repository.admit_more(model, more) if more else nullcontext():
        views = tiles.cut(image, model.predictor.frame, model.predictor.size)
        while part := await service.decode(lambda: list[PreparedView](islice(views, model.batch))):
            jobs = [Job(ResizedImage(*view), settings.postprocess, settings.deadline, start_by) for view in part]
            results = await gather_or_cancel([run_job(model, job) for job in jobs])
            start_by = settings.deadline  # the others wait for the first
            found += [result.value for result in results]
            queue += max(result.queue for result in results)
            inference += max(result.inference for result in results)
        merged = await service.decode(tiles.merge, found, settings.postprocess)
    return JobResult(merged[:MOST_DETECTIONS], queue, inference)


async def gather_or_cancel(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; the first error cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
