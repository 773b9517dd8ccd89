"""`onelook.stream`: streaming AP of models on the videos of a data set."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onelook.api.bench import latency_of
from onelook.api.candidates import OpenCandidate, named_candidates
from onelook.api.checks import check_thresholds
from onelook.api.comparing import CompareSettings, Measuring
from onelook.api.open import LoadOptions, Model, PathLike
from onelook.api.stream_trials import checked_runtimes, open_trials
from onelook.api.validate import open_evaluated
from onelook.cluster.workers import InProcess
from onelook.config import check_arguments
from onelook.data import Dataset, splits
from onelook.data.annotated_sizes import check_annotated_sizes
from onelook.data.objects import evaluation_notes
from onelook.data.split_names import usual_splits
from onelook.errors import UsageError, UserError, did_you_mean
from onelook.evaluation import Evaluation
from onelook.report.streaming import StreamedModel, Streaming, write_streaming
from onelook.reporter import PlainReporter, Reporter
from onelook.streaming import (
    FORECASTS,
    Policy,
    RunTimes,
    offline_results,
    sequences_of,
    simulate_all,
    streaming_score,
)
from onelook.streaming import Sequence as Video

RUN_TIMES = "run_times"  # the folder of the measured run times, in that of the results
FASTEST_VIDEO = 10_000.0  # frames a second


def stream(
    models: Model | Sequence[Model] | Mapping[str, Model],
    data: Dataset | PathLike,
    *,
    split: str | None = None,
    sizes: int | Sequence[int] | None = None,
    runtime: str | Sequence[str] | None = None,
    forecast: str | Sequence[str] = ("none", "kalman"),
    fps: float = 30.0,
    eta: float = 0.0,
    devices: int = 1,
    dynamic: bool = False,
    stride: int = 1,
    run_times: PathLike | None = None,
    speed: float = 1.0,
    confidence: float = 0.01,
    iou: float = 0.65,
    batch: int = 8,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    runs: int = 100,
    seed: int = 0,
    allow_size_mismatch: bool = False,
    out: PathLike | None = None,
    reporter: Reporter | None = None,
) -> Streaming:
    """Streaming AP (Li et al., ECCV 2020): accuracy at the time of every frame, with what was finished until then.

    models: one, or several: weights, exported files, folders of runs, detectors; NAME=FILE and mappings as in
    `onelook.compare`.  data: a data set of video frames, or its folder or file, of which `split` is opened; None is
    val, or test where that is what there is.  sizes: sides of the networks' input to try, each with every model; None
    is each model's own.  runtime: "torch", "onnx", "openvino", "ncnn", or several, to run weights with; for all but
    "torch" they are exported into `out`; None runs every model as it is given.  forecast: "none", "linear" or "kalman",
    or several: how boxes are moved to the time of the frame.  fps: frames a second.  eta: frames that the query is
    ahead of the frame; -1 allows the time of one.
    devices: detectors that run at the same time; 0 is one for every frame.  dynamic, stride: see
    `streaming.schedule.Policy`.  run_times: a file of run times, or the folder that an earlier call has written them
    to, with one file a model; None measures them here, from decoded image to boxes.  speed: of the machine that is
    simulated, relative to the measured one.  confidence, iou, device, threads, half, batch: as in
    `onelook.validate`.  runs: measured frames of each model.  seed: of the drawn run times.  out: folder that CSV,
    JSON, the chart and the run times are written to, and in which the same call continues what was stopped.

    Every frame is detected once, offline; the time is simulated from the run times. Run times of several models are
    measured in alternation. Raises UserError for models, data sets and run times that cannot be used.
    """
    check_arguments(stream, locals())
    check_thresholds(confidence, iou)
    policy, kinds = Policy(devices, dynamic, stride), _forecasts(forecast)
    check_numbers(fps=fps, speed=speed, runs=runs, seed=seed)
    shown = PlainReporter() if reporter is None else reporter
    several = isinstance(models, (Mapping, Sequence)) and not isinstance(models, str)
    candidates = named_candidates(models if several else [models], least=1)  # type: ignore[arg-type, list-item]
    if split is None and isinstance(data, str | os.PathLike):
        split = usual_splits(splits(os.fspath(data)))[1]
    dataset = open_evaluated(data, split or "val", shown)
    videos = sequences_of(dataset)
    check_annotated_sizes(dataset, shown, allow=allow_size_mismatch)
    folder = None if out is None else Path(out)
    settings = CompareSettings(None, confidence, iou, batch, device, threads, half, runs)
    measuring = Measuring(dataset, settings, folder, shown)
    options = LoadOptions(device=device, half=half, threads=threads)
    tried = [sizes] if isinstance(sizes, int) else sizes
    tried_runtimes = checked_runtimes(runtime)
    simulated = StreamSimulation(measuring, videos, policy, fps=fps, eta=eta, seed=seed)
    try:
        opened, notes = open_trials(candidates, tried, tried_runtimes, options, measuring)
        measuring.check_classes(opened)
        times = _given_run_times(run_times, opened) if run_times is not None else _measured(measuring, opened)
        found: list[StreamedModel] = []
        for one in opened:
            (evaluation,) = measuring.evaluations([one], InProcess())
            found += simulated(one, evaluation, times[one.name].faster(speed), kinds)
            notes = (*notes, *evaluation.notes)
    except KeyboardInterrupt:
        if folder is not None:
            shown.info(f"Stopped. What is finished is in '{folder}': the same command continues.")
        raise
    facts = simulated.facts(run_times, speed, runs) | {"machine": measuring.hardware}
    notes = tuple(dict.fromkeys((*dataset.notes, *notes, *evaluation_notes(dataset))))
    result = Streaming(dataset.describe(), len(dataset), len(videos), fps, tuple(found), facts, notes)
    if folder is None:
        return result
    saved = [times[one.name].save(folder / RUN_TIMES / _file_name(one.name)) for one in opened]
    return write_streaming(replace(result, written=tuple(saved)), folder)


def _forecasts(names: str | Sequence[str]) -> list[str]:
    """The names of the forecasts; UsageError for an unknown one and for none."""
    kinds = list(dict.fromkeys(name.strip() for name in (names.split(",") if isinstance(names, str) else names)))
    for name in kinds or [""]:
        if name not in FORECASTS:
            raise UsageError(
                f"There is no forecast '{name}'.{did_you_mean(name, FORECASTS)}", f"Give {', '.join(FORECASTS)}."
            )
    return kinds


def check_numbers(*, fps: float, speed: float = 1.0, runs: int = 1, seed: int = 0) -> None:
    """UsageError for a number that is out of range."""
    for name, value, most in (("fps", fps, FASTEST_VIDEO), ("speed", speed, 1e6)):
        if not 0 < value <= most:
            raise UsageError(f"{name} is {value}.", f"Give a number above 0, up to {most:g}.")
    if runs < 1:
        raise UsageError(f"runs is {runs}.", "Give 1 or more.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}.", "Give a whole number from 0 to 4294967295.")


def _measured(measuring: Measuring, opened: Sequence[OpenCandidate]) -> dict[str, RunTimes]:
    seconds = measuring.frame_times(opened)
    return {
        one.name: RunTimes(
            tuple(seconds[one.name]),
            {
                "name": one.name,
                "size": list(one.predictor.size),
                **measuring.described(one),
                "machine": measuring.hardware,
            },
        )
        for one in opened
    }


def _given_run_times(given: PathLike, opened: Sequence[OpenCandidate]) -> dict[str, RunTimes]:
    """The run times of every model, from a file for all, or a folder with one each."""
    place = Path(given)
    if not place.is_dir():
        shared = RunTimes.read(place)
        return {one.name: shared for one in opened}
    missing = [one.name for one in opened if not (place / _file_name(one.name)).is_file()]
    if missing:
        raise UserError(
            f"'{place}' has no run times of {missing[0]}: '{_file_name(missing[0])}' is not in it.",
            "Name the models as when the run times were measured, or give one file.",
        )
    return {one.name: RunTimes.read(place / _file_name(one.name)) for one in opened}


def _file_name(name: str) -> str:
    """The name of a model's file of run times, its own even where names differ in signs that a file's name lacks."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80]
    return f"{plain}.json" if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


class StreamSimulation:
    """Streaming AP of models, on the same videos under the same policy."""

    def __init__(
        self, measuring: Measuring, videos: Sequence[Video], policy: Policy, *, fps: float, eta: float, seed: int
    ) -> None:
        self.measuring, self.policy, self.fps, self.eta, self.seed = measuring, policy, fps, eta, seed
        dataset, truth = measuring.dataset, measuring.truth
        rows = truth.rows_of_images(np.asarray(dataset.image_ids))
        self.videos = [Video(video.name, rows[video.rows]) for video in videos]
        self.sizes = np.empty_like(dataset.sizes)
        self.sizes[rows] = dataset.sizes

    def __call__(
        self, one: OpenCandidate, evaluation: Evaluation, run_times: RunTimes, forecasts: Sequence[str]
    ) -> list[StreamedModel]:
        """The model's streaming AP with each forecast. evaluation: its detections of every frame."""
        lengths = [len(video) for video in self.videos]
        schedules = simulate_all(lengths, self.fps, run_times, self.policy, seed=self.seed)
        found = offline_results(evaluation.results, len(evaluation.truth.image_ids))
        latency = latency_of(run_times.samples)
        streamed = []
        for name in forecasts:
            result = streaming_score(
                evaluation.truth,
                found,
                self.videos,
                schedules,
                self.sizes,
                fps=self.fps,
                eta=self.eta,
                forecast=FORECASTS[name],
            )
            counters = result.counters
            streamed.append(
                StreamedModel(
                    name=one.name,
                    model=one.candidate.text,
                    **self.measuring.described(one),
                    size=one.predictor.size,
                    forecast=name,
                    streaming=result.evaluation.stats,
                    offline=evaluation.stats,
                    milliseconds={key: latency[key] for key in ("mean", "p50", "p90", "p99")},
                    frames=counters.frames,
                    processed=counters.processed,
                    missed=counters.missed,
                    in_time=counters.in_time,
                    mismatch=counters.mismatch,
                )
            )
        return streamed

    def facts(self, run_times: PathLike | None, speed: float, runs: int) -> dict[str, str]:
        """What the numbers depend on, by name."""
        policy, settings = self.policy, self.measuring.settings
        devices = "one for every frame" if policy.devices == 0 else str(policy.devices)
        given = f"{runs} frames measured here, from decoded image to boxes" if run_times is None else f"of {run_times}"
        return {
            "schedule": f"devices: {devices}; dynamic: {'yes' if policy.dynamic else 'no'}; stride: {policy.stride}",
            "query": f"eta {self.eta:g}: frame i is queried at (i - {self.eta:g}) / {self.fps:g} seconds",
            "run times": f"{given}; drawn with seed {self.seed}" + (f"; speed {speed:g}" if speed != 1 else ""),
            "detections": f"from confidence {settings.confidence:g}, NMS at IoU {settings.iou:g}",
        }
