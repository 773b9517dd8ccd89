"""One version of a model that serves: its predictors, their threads, and the requests that use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onelook.augment.letterbox import ResizeTransform
from onelook.errors import ExportError
from onelook.ops.nms import Nms, Postprocess
from onelook.predict.predictor import Predictor
from onelook.serving.batching import Batcher, Job
from onelook.serving.metrics import Metrics
from onelook.serving.networks import facts_of, run_network
from onelook.serving.options import ServerOptions
from onelook.serving.service_error import ServiceError

MOST_DETECTIONS = 1000  # an image: an answer of a low threshold stays readable
_NEW_SHARE = 0.1  # of the last run, in the mean duration of runs
_AIM = 0.75  # of the longest wait is planned for: the rest is for runs that take longer than the last ones

Opener = Callable[[Path], Predictor]
"""Opens a model: the file or folder -> a predictor, or a UserError."""


@dataclass(frozen=True)
class ResizedImage:
    """pixels: (H, W, 3) uint8 of the network's input size.  placement: where the original image lies in it."""

    pixels: np.ndarray
    placement: ResizeTransform


@dataclass(frozen=True)
class Tensors:
    """An input of the open inference protocol: run by itself, so that its outputs are those of a local run."""

    feed: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]


class ServedModel:
    """A version of a model, opened and tried once.

    predictors: the same model, opened once for each thread that runs it.

    `admitted` counts the images of requests that are in work. `retire` lets them finish and ends the threads.
    Raises UserError for a file that cannot be opened, ExportError where the trial run fails.
    """

    def __init__(
        self, name: str, version: str, predictors: Sequence[Predictor], options: ServerOptions, metrics: Metrics
    ) -> None:
        self.name, self.version = name, version
        self.predictor = predictors[0]
        self.facts = facts_of(self.predictor.runtime)
        self.batch = options.batch or self.predictor.batch
        self.workers = len(predictors)
        self.capacity = options.queue
        self.longest_wait = options.longest_wait
        self.admitted = 0
        self.retired = False
        for predictor in predictors:
            predictor.batch = self.batch
            self._warm_up(predictor)
        self._idle = threading.Event()
        labels = {"model": name, "version": version}
        self.gauge = metrics.queue.labels(**labels)
        self.stages = {
            stage: metrics.seconds.labels(stage=stage, **labels) for stage in ("decode", "queue", "inference", "total")
        }
        self.rejections = metrics.rejected.labels(**labels)
        sizes = metrics.batch.labels(**labels)
        self._seconds_an_image: float | None = None  # of the last runs

        def observe(count: int, seconds: float) -> None:
            sizes.observe(count)
            self.stages["inference"].observe(seconds)
            before = self._seconds_an_image
            self._seconds_an_image = (
                seconds / count if before is None else before + _NEW_SHARE * (seconds / count - before)
            )

        self.batcher = Batcher(
            *(partial(_run, predictor) for predictor in predictors),
            batch=self.batch,
            max_wait=options.max_wait_ms / 1000,
            name=name,
            observe=observe,
        )

    def settings(self, threshold: float | None, iou: float | None) -> Postprocess:
        """The postprocessing with these thresholds; None is the model's own."""
        postprocess = self.predictor.settings(
            self.facts.threshold if threshold is None else threshold,
            float(getattr(self.predictor.postprocess, "iou", 0.45)) if iou is None else iou,
        )
        if isinstance(postprocess, Nms) and postprocess.limit is None:
            return replace(postprocess, limit=MOST_DETECTIONS)
        return postprocess

    def resize(self, image: np.ndarray) -> ResizedImage:
        """(H, W, 3) uint8 RGB, fitted into the network's input."""
        return ResizedImage(*self.predictor.frame(image, self.predictor.size))

    def take(self, images: int) -> None:
        """Counts images that are admitted. The repository's lock is held."""
        self.admitted += images
        self.gauge.set(self.admitted)

    def release(self, images: int) -> None:
        """Ends the work on images that were admitted. The repository's lock is held."""
        self.admitted -= images
        self.gauge.set(self.admitted)
        if self.retired and not self.admitted:
            self._idle.set()

    @property
    def expected_wait(self) -> float:
        """Seconds until the run of an image that is admitted now; 0 before the first run."""
        return self.admitted * (self._seconds_an_image or 0.0) / self.workers

    @property
    def is_full(self) -> bool:
        """Whether an image that is admitted now would be one too many, or would wait too long.

        Two batches for each thread always have room: one that runs, and one that is prepared meanwhile.
        """
        if self.admitted >= self.capacity:
            return True
        return self.admitted >= 2 * self.batch * self.workers and self.expected_wait > _AIM * self.longest_wait

    def overloaded(self) -> ServiceError:
        """The answer where the queue is full, and to an image that waited too long. Retry-After: when there is room."""
        self.rejections.inc()
        return ServiceError(
            503,
            "overloaded",
            "The server has as much work as it may queue.",
            "Send the request again after the seconds of Retry-After.",
            max(1, min(60, round(self.expected_wait))),
        )

    def retire(self, timeout: float) -> None:
        """Waits for the requests in work, at most `timeout` seconds, and ends the threads. Nothing is admitted now."""
        ends = time.monotonic() + timeout
        if self.admitted:
            self._idle.wait(timeout)
        self.batcher.close()
        self.batcher.join(max(0.0, ends - time.monotonic()))

    def _warm_up(self, predictor: Predictor) -> None:
        """One run of each size that will be needed. ExportError where it fails or returns what is no number."""
        height, width = predictor.size
        for count in sorted({1, self.batch}):
            grey = np.full((count, height, width, 3), 114, np.uint8)
            found = predictor.runtime(grey, self.settings(None, None))
            if len(found) != count:
                raise ExportError(
                    f"The trial run returned {len(found)} results for {count} images.", "Export it again."
                )
        tensor = np.full((1, 3, height, width), 114, np.float32)
        if self.facts.inputs[0].shape[0] in (-1, 1):
            names = [spec.name for spec in self.facts.outputs]
            feed = {"images": tensor, **self.default_inputs()}
            for name, values in zip(names, run_network(predictor.runtime, names, feed)):
                if np.isnan(values).any():
                    raise ExportError(f"The trial run returned not-a-number in '{name}'.", "Export the model again.")

    def default_inputs(self) -> dict[str, np.ndarray]:
        """The inputs beside the images, with the values that are built into the file."""
        nms = getattr(getattr(self.predictor.runtime, "metadata", None), "nms", None) or {}
        return {spec.name: np.array(nms.get(spec.name, 0.0), np.float32) for spec in self.facts.inputs if spec.optional}


def _run(predictor: Predictor, jobs: Sequence[Job]) -> Sequence[Any]:
    first = jobs[0]
    if isinstance(first.inputs, Tensors):
        return [run_network(predictor.runtime, first.inputs.outputs, first.inputs.feed)]
    resized: list[ResizedImage] = [job.inputs for job in jobs]
    pixels, placements = [one.pixels for one in resized], [one.placement for one in resized]
    postprocess: Any = first.key  # images run together where their postprocessing is equal
    return predictor.run(pixels, placements, postprocess)
