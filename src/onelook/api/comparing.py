"""Measures the models of a comparison, and keeps what is finished in a folder, from which the same call continues."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onelook.api.alternation import alternate
from onelook.api.bench import DETECTING, describe_runtime
from onelook.api.candidates import Candidate, OpenCandidate
from onelook.api.kept import read_kept
from onelook.api.memory_process import measure_memory
from onelook.api.open import LoadOptions, open_predictor
from onelook.api.validate import image_counter
from onelook.cluster.ray_workers import device_of
from onelook.cluster.retrying import run_all
from onelook.cluster.workers import Call, InProcess, Workers
from onelook.data import Dataset
from onelook.devices import num_cores, processor_name
from onelook.errors import DataError, UserError
from onelook.evaluation import Evaluation, GroundTruth, evaluate, read_results, score, write_results
from onelook.evaluation.runner import match_classes
from onelook.evaluation.tables import Results
from onelook.files import write_text
from onelook.ops.nms import with_thresholds
from onelook.predict.predictor import Predictor
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.reporter import Reporter
from onelook.version import __version__

TURN = 5  # images of a model that are timed one after the other, after one that is not
IMAGES = 8  # images that the time is measured on, at least one batch
KEPT = "measured.json"


@dataclass(frozen=True)
class CompareSettings:
    """How models are compared. The fields are those of `onelook.compare`."""

    size: int | None
    confidence: float
    iou: float
    batch: int
    device: str | None
    threads: int | None
    half: bool
    runs: int


@dataclass(frozen=True)
class Seconds:
    """The times of a model.  image: of single images.  batch: of whole batches."""

    image: list[float]
    batch: list[float]


def evaluate_predictor(
    predictor: Predictor, dataset: Dataset, settings: CompareSettings, progress: Callable[[int], None] | None = None
) -> Evaluation:
    """The evaluation of a model on a data set. progress: called with a number of images that are done."""
    runtime = predictor.runtime
    chosen = with_thresholds(runtime.evaluating, settings.confidence, settings.iou)
    return evaluate(runtime, dataset, chosen, batch=settings.batch, progress=progress)


def detect_with_files(
    candidate: Candidate, dataset: Dataset, settings: CompareSettings
) -> tuple[Results, tuple[str, ...]]:
    """The detections of a model that is opened on the machine of a worker, and the notes of its evaluation."""
    options = LoadOptions(
        weights=candidate.weights,
        device=settings.device,
        size=settings.size,
        half=settings.half,
        threads=settings.threads,
    )
    evaluation = evaluate_predictor(open_predictor(candidate.model, options), dataset, settings)
    return evaluation.results, evaluation.notes


def _sent(one: OpenCandidate) -> Candidate:
    """The model by absolute paths; UserError for one that other machines cannot read."""
    if not one.digest:
        raise UserError(f"{one.name} is in memory, not in a file.", "Give files, or leave `on` away.")
    candidate = one.candidate
    places = [
        os.path.abspath(path) if path is not None and os.path.exists(path) else path
        for path in (candidate.model, candidate.weights)
        if path is None or isinstance(path, str | os.PathLike)
    ]
    return replace(candidate, model=places[0] or "", weights=places[1])


class Measuring:
    """Measures models on a data set. folder: where results are kept; None keeps nothing.

    A result is found again by what it depends on: the content of the model's files, the data set, the settings, the
    version of this library, and for times the hardware and all models that were measured in alternation.
    """

    def __init__(self, dataset: Dataset, settings: CompareSettings, folder: Path | None, reporter: Reporter) -> None:
        self.dataset, self.settings, self.folder, self.reporter = dataset, settings, folder, reporter
        self.kept: dict[str, Any] = {}
        if folder is not None and (folder / KEPT).is_file():
            self.kept = read_kept(folder / KEPT)
            before = self.kept.get("data")
            if before is not None and before != self._data:
                raise UserError(
                    f"'{folder}' holds a comparison on other data: {before}.", "Choose another folder (out)."
                )

    def check_classes(self, opened: Sequence[OpenCandidate]) -> None:
        """DataError that names the model where one has no class of the data set, before anything is measured."""
        for one in opened:
            try:
                match_classes(one.predictor.class_names, self.dataset, self.truth)
            except DataError as error:
                raise DataError(f"{one.name}: {error.message}", error.remedy) from None

    def evaluations(self, opened: Sequence[OpenCandidate], workers: Workers) -> list[Evaluation]:
        """The evaluation of every model, from its kept detections where there are any."""
        found = [self._kept_evaluation(one) for one in opened]
        missing = [number for number, evaluation in enumerate(found) if evaluation is None]
        dataset = workers.share(self.dataset)
        here = isinstance(workers, InProcess)
        device = device_of(workers, self.settings.device)

        def begin(number: int, one: OpenCandidate) -> Call[Any]:
            if not here:
                return workers.submit(detect_with_files, _sent(one), dataset, replace(self.settings, device=device))
            with self.reporter.progress(f"evaluating {one.name}") as progress:
                counter = image_counter(progress, len(self.dataset))
                return workers.submit(evaluate_predictor, one.predictor, dataset, self.settings, counter)

        def finished(number: int, result: Any) -> None:
            evaluation = result if here else score(self.truth, result[0], notes=result[1])
            found[number] = evaluation
            self._keep_evaluation(opened[number], evaluation)
            if not here:
                self.reporter.info(f"{opened[number].name}: evaluated")

        if failed := run_all(workers, ((number, opened[number]) for number in missing), begin, finished):
            number, reason = next(iter(failed.items()))
            raise UserError(f"{opened[number].name} was not evaluated: {reason}", "The same command continues.")
        return [one for one in found if one is not None]

    def _place_of(self, one: OpenCandidate) -> tuple[str, Path | None]:
        """The key of a model's evaluation, and the file of its kept detections; None where nothing is kept."""
        settings = self.settings
        key = self._key("evaluation", one, settings.confidence, settings.iou, settings.half)
        return key, None if self.folder is None or not key else self.folder / "detections" / _file_name(one.name, key)

    def _kept_evaluation(self, one: OpenCandidate) -> Evaluation | None:
        key, place = self._place_of(one)
        if place is None or key not in self.kept or not place.is_file():
            return None
        self.reporter.info(f"{one.name}: evaluated before")
        return score(self.truth, read_results(place, self.truth), notes=self.kept[key]["notes"])

    def _keep_evaluation(self, one: OpenCandidate, evaluation: Evaluation) -> None:
        key, place = self._place_of(one)
        if place is not None:
            write_results(place, evaluation.truth, evaluation.results)
            self._keep(key, {"notes": list(evaluation.notes)})

    def memory(self, one: OpenCandidate) -> tuple[dict[str, int], tuple[str, ...]]:
        """The memory of a model in bytes, and notes; nothing for a model that is not made of files alone."""
        settings = self.settings
        if not one.digest:
            return {}, ("Its memory was not measured: it is in memory already, not in a file.",)
        key = self._key("memory", one, settings.half, settings.threads, self.hardware)
        if key in self.kept:
            return dict(self.kept[key]), ()
        weights = one.candidate.weights
        arguments = {
            "model": os.fspath(one.candidate.model),  # type: ignore[arg-type]  # it has a digest, so it is a path
            "weights": None if weights is None else os.fspath(weights),
            "size": None if isinstance(one.predictor.runtime, ExportedRuntime) else settings.size,
            "device": settings.device,
            "threads": settings.threads,
            "half": settings.half,
        }
        with self.reporter.progress(f"measuring the memory of {one.name}"):
            try:
                found = measure_memory(arguments)
            except UserError as error:
                return {}, (error.message,)
        self._keep(key, found)
        return found, ()

    def times(self, opened: Sequence[OpenCandidate]) -> dict[str, Seconds]:
        """The times of all models, measured in alternation; kept ones only where they are of the same models."""
        settings = self.settings
        keys = [self._key("times", one, settings.half, settings.threads, self.hardware) for one in opened]
        key = _digest(keys, settings.batch, settings.runs) if all(keys) else ""
        if key and key in self.kept:
            return {one.name: Seconds(*self.kept[key][number]) for number, one in enumerate(opened)}
        images = self._images()
        one_image = {one.name: _Calls(one, images, 1) for one in opened}
        batches = {one.name: _Calls(one, images, settings.batch) for one in opened}
        wait = _wait_for(opened)
        with self.reporter.progress("measuring times in alternation") as progress:
            turns = -(-settings.runs // TURN)
            timed = min(TURN, settings.runs)
            image = alternate(one_image, turns, warm_up=1, timed=timed, untimed=1, wait=wait, progress=progress)
        with self.reporter.progress("measuring throughput in alternation") as progress:
            turns = max(3, -(-settings.runs // settings.batch))
            batch = alternate(batches, turns, warm_up=1, untimed=1, wait=wait, progress=progress)
        found = {one.name: Seconds(image[one.name], batch[one.name]) for one in opened}
        if key:
            self._keep(key, [[found[one.name].image, found[one.name].batch] for one in opened])
        return found

    def frame_times(self, opened: Sequence[OpenCandidate]) -> dict[str, list[float]]:
        """Seconds from a decoded image to its boxes, one at a time, of all models in alternation.

        With the thresholds of the evaluation, as streaming AP counts these very detections. Kept ones only where they
        are of the same models.
        """
        settings = self.settings
        thresholds = settings.confidence, settings.iou, settings.half, settings.threads
        keys = [self._key("frame times", one, *thresholds, self.hardware) for one in opened]
        key = _digest(keys, settings.runs) if all(keys) else ""
        if key and key in self.kept:
            return {one.name: self.kept[key][number] for number, one in enumerate(opened)}
        images, turns = self._images(), -(-settings.runs // TURN)
        calls = {one.name: _FrameCalls(one, images, settings) for one in opened}
        with self.reporter.progress("measuring run times") as progress:
            timed = min(TURN, settings.runs)
            found = alternate(
                calls, turns, warm_up=1, timed=timed, untimed=1, wait=_wait_for(opened), progress=progress
            )
        self._keep(key, [found[one.name] for one in opened])
        return found

    def described(self, one: OpenCandidate) -> dict[str, str]:
        """Runtime, device and precision of a model."""
        return describe_runtime(one.predictor.runtime, half=self.settings.half)

    def notes(self, one: OpenCandidate) -> tuple[str, ...]:
        """What to know of a model's times."""
        fixed = getattr(getattr(one.predictor.runtime, "metadata", None), "batch", None)
        if fixed is None or fixed == 1:
            return ()
        return (f"The file takes {fixed} images at once: one image takes as long as {fixed}.",)

    def facts(self, resamples: int, seed: int) -> dict[str, str]:
        """What the numbers depend on, by name."""
        settings = self.settings
        turns = -(-settings.runs // TURN)
        confidence, iou = DETECTING
        return {
            "data": self.dataset.describe(notes=False),
            "machine": self.hardware,
            "threads": "the choice of each runtime" if settings.threads is None else str(settings.threads),
            "AP": f"COCO protocol; detections from confidence {settings.confidence:g}, NMS at IoU {settings.iou:g}",
            "intervals and p-values": (
                f"paired bootstrap, {resamples} resamples of the images (seed {seed}), two-sided; Holm's correction "
                "for the number of comparisons"
            ),
            "time": (
                f"one image of the data, from its resized pixels to boxes (confidence {confidence:g}, NMS at IoU "
                f"{iou:g}); {turns} turns of each model in alternation, each {min(TURN, settings.runs)} images after "
                "one that does not count"
            ),
            "images a second": f"the same with {settings.batch} images at once",
            "memory": "the largest resident size of a process that runs only this model, libraries included; on a GPU, "
            "the largest allocation there",
            "parameters and GFLOPs": "of the deploy form at the size of its input; a multiply-add counts as two",
            "software": f"Onelook {__version__}, Python {platform.python_version()}",
        }

    @cached_property
    def truth(self) -> GroundTruth:
        """The annotations of the data set."""
        return GroundTruth.from_coco(self.dataset.coco_ground_truth())

    @cached_property
    def _data(self) -> str:
        """The data set, with a digest of its annotations."""
        return f"{self.dataset.described_by.name}, {_digest(self.dataset.identity())[:16]}"

    @cached_property
    def hardware(self) -> str:
        cores = num_cores()
        text = f"{processor_name()}, {cores} core{'s' * (cores != 1)}"
        return text if self.settings.device is None else f"{text}; device {self.settings.device}"

    def _images(self) -> list[np.ndarray]:
        """Images spread over the data set."""
        count = min(len(self.dataset), max(IMAGES, self.settings.batch))
        return [self.dataset.image(int(row)) for row in np.linspace(0, len(self.dataset) - 1, count).astype(int)]

    def _key(self, what: str, one: OpenCandidate, *settings: object) -> str:
        """What a result is kept under; "" for a model that cannot be known again."""
        return f"{what} {_digest(one.digest, self._data, __version__, settings)}" if one.digest else ""

    def _keep(self, key: str, value: object) -> None:
        if self.folder is not None and key:
            self.kept |= {"data": self._data, key: value}
            write_text(self.folder / KEPT, json.dumps(self.kept) + "\n")


class _Calls:
    """Runs a model on images of a data set, the next ones in each call."""

    def __init__(self, one: OpenCandidate, images: Sequence[np.ndarray], batch: int) -> None:
        runtime = one.predictor.runtime
        resized = np.stack([runtime.frame(image, runtime.size)[0] for image in images])
        self.batches = [np.roll(resized, -start, 0)[:batch] for start in range(len(images) if batch == 1 else 1)]
        if len(images) < batch:
            self.batches = [np.resize(resized, (batch, *resized.shape[1:]))]
        self.runtime, self.count = runtime, 0
        self.postprocess = with_thresholds(runtime.postprocess, *DETECTING)

    def __call__(self) -> object:
        self.count += 1
        return self.runtime(self.batches[self.count % len(self.batches)], self.postprocess)


class _FrameCalls:
    """Detects in one image of a data set, the next one in each call, with everything from image to boxes."""

    def __init__(self, one: OpenCandidate, images: Sequence[np.ndarray], settings: CompareSettings) -> None:
        runtime = one.predictor.runtime
        chosen = with_thresholds(runtime.evaluating, settings.confidence, settings.iou)
        self.predictor = Predictor(runtime, postprocess=chosen, batch=1)
        self.images, self.count = images, 0

    def __call__(self) -> object:
        self.count += 1
        return self.predictor([self.images[self.count % len(self.images)]])


def _wait_for(opened: Sequence[OpenCandidate]) -> Callable[[], None]:
    """A function that returns when the GPUs of these models have finished."""
    devices = {getattr(one.predictor.runtime, "device", None) for one in opened}
    gpus = [device for device in devices if getattr(device, "type", "cpu") == "cuda"]
    if not gpus:
        return lambda: None
    import torch

    def wait() -> None:
        for device in gpus:
            torch.cuda.synchronize(device)

    return wait


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _file_name(name: str, key: str) -> str:
    """The file of a model's detections: its name, and the key, so that another model of that name has another file."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}-{key[-12:]}.json"
