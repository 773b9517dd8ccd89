"""`onelook.compare`: several models on one data set and one machine, and whether they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from onelook.api.bench import latency_of
from onelook.api.candidates import OpenCandidate, named_candidates, open_candidates
from onelook.api.checks import check_batch, check_thresholds
from onelook.api.comparing import CompareSettings, Measuring, Seconds
from onelook.api.open import LoadOptions, Model, PathLike, has_torch
from onelook.api.validate import open_evaluated
from onelook.cluster.place import parse_place
from onelook.cluster.ray_workers import workers_at
from onelook.cluster.workers import InProcess
from onelook.config import check_arguments
from onelook.data import Dataset, splits
from onelook.data.annotated_sizes import check_annotated_sizes
from onelook.data.objects import evaluation_notes
from onelook.data.split_names import usual_splits
from onelook.errors import UsageError, UserError
from onelook.evaluation import Evaluation, GroundTruth
from onelook.evaluation.matches import match_table
from onelook.evaluation.significance import LEVEL, compare_pairs, interval, mean_of_classes, resample
from onelook.report.comparison import ComparedModel, ComparedPair, Comparison, differences_of
from onelook.report.comparison_page import write_comparison
from onelook.reporter import PlainReporter, Reporter

FEWEST_IMAGES = 10  # of fewer, resampled AP says nothing
FEW_IMAGES = 100  # intervals from fewer are rough
_UNSTEADY_NOTE = "Its times vary much: other work ran on this machine, and an idle one gives others."
UNSTEADY = 2.0  # p90 over p50 of the times on a machine with other work
RESAMPLES, RESAMPLES_OF_A_PAIR = 1000, 100  # so that the smallest p-value, times the pairs, is below 0.05


def compare(
    models: Sequence[Model] | Mapping[str, Model],
    data: Dataset | PathLike,
    *,
    split: str | None = None,
    size: int | None = None,
    confidence: float = 0.01,
    iou: float = 0.65,
    batch: int = 8,
    device: str | None = None,
    threads: int | None = None,
    half: bool = False,
    runs: int = 50,
    fps: float | None = None,
    memory: bool = True,
    resamples: int | None = None,
    seed: int = 0,
    allow_size_mismatch: bool = False,
    out: PathLike | None = None,
    on: str | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Compares models on one data set and one machine: accuracy, speed, cost, and whether they differ.

    models: two or more: weights, exported files, folders of runs, detectors; a text NAME=FILE gives a name, or weights
    to a built-in model. A mapping gives a name to each.  data: a data set, or its folder or file, of which `split` is
    opened; None is val, or test where that is what there is.  size, confidence, iou, device, threads, half: as in
    `onelook.validate`, for all models.  batch: images at once, in the evaluation and for the images a second.
    runs: images that the time is measured on.  fps: frames a second of data that are videos, for streaming AP beside
    AP, as `onelook.stream` measures it without forecasts; None is without.  memory: whether to run each model in a
    process of its own, for its memory.  resamples: of the images, for intervals and p-values; None is 1000, or 100 for
    each pair of models where that is more.  seed: of the resampling.  out: folder that the HTML page, CSV and JSON are
    written to, and in which the same call continues what was stopped; None writes nothing.  on: "ray" or
    "ray://HOST:PORT" evaluates the models on a Ray cluster, whose machines share the files; memory and times are
    measured here.

    Times of the models are measured in alternation. Exported files need no PyTorch. Ctrl-C keeps the models that are
    evaluated, where there is a folder. Raises UserError for models and data sets that cannot be used, for data without
    objects and with fewer than 10 images.
    """
    check_arguments(compare, locals())
    check_batch(batch)
    check_thresholds(confidence, iou)
    for name, value, least in (("runs", runs, 1), ("resamples", resamples, 100), ("seed", seed, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}.", f"Give a number of {least} or more.")
    shown = PlainReporter() if reporter is None else reporter
    place, candidates = parse_place(on), named_candidates(models)
    if not place.is_local and isinstance(data, str | os.PathLike):
        data = os.path.abspath(data)  # a worker has another folder of work
    dataset = _open(data, split, shown)
    settings = CompareSettings(size, confidence, iou, batch, device, threads, half, runs)
    folder = None if out is None else Path(out)
    measuring = Measuring(dataset, settings, folder, shown)
    if measuring.truth.crowds.all():
        raise UserError(
            f"The split '{dataset.split}' of '{dataset.described_by}' has no objects: AP is undefined on it.",
            "Give annotations, or choose another split.",
        )
    check_annotated_sizes(dataset, shown, allow=allow_size_mismatch)
    videos = None if fps is None else _Videos(measuring, fps, seed)
    opened = open_candidates(candidates, LoadOptions(device=device, size=size, half=half, threads=threads))
    measuring.check_classes(opened)
    try:
        with workers_at(place, InProcess(), shown, device=device) as workers:
            evaluations = measuring.evaluations(opened, workers)
        memories = [measuring.memory(one) if memory else ({}, ()) for one in opened]
        times = measuring.times(opened)
        found = _compared_models(opened, evaluations, memories, times, measuring)
        if videos is not None:
            found = videos.added_to(found, opened, evaluations)
        result = _with_pairs(found, evaluations, measuring, resamples, seed)
    except KeyboardInterrupt:
        if folder is not None:
            shown.info(f"Stopped. What is finished is in '{folder}': the same command continues.")
        raise
    return result if folder is None else write_comparison(result, folder)


def _open(data: Dataset | PathLike, split: str | None, reporter: Reporter) -> Dataset:
    """The data set; UserError where it has too few images."""
    if split is None and isinstance(data, str | os.PathLike):
        split = usual_splits(splits(os.fspath(data)))[1]
    dataset = open_evaluated(data, split or "val", reporter)
    where = dataset.described_by
    if len(dataset) < FEWEST_IMAGES:
        raise UserError(
            f"The split '{dataset.split}' of '{where}' has {len(dataset)} images, too few to tell models apart.",
            f"Give {FEWEST_IMAGES} images at least, better some hundred.",
        )
    return dataset


def _compared_models(
    opened: Sequence[OpenCandidate],
    evaluations: Sequence[Evaluation],
    memories: Sequence[tuple[Mapping[str, int], tuple[str, ...]]],
    times: Mapping[str, Seconds],
    measuring: Measuring,
) -> list[ComparedModel]:
    """What was measured of each model; the intervals come later."""
    common = set(_data_notes(measuring.dataset))
    found = []
    for one, evaluation, (memory, notes) in zip(opened, evaluations, memories):
        facts = {}
        if has_torch():
            from onelook.api.model_facts import model_facts, published_figures

            known = model_facts(one.predictor.runtime)
            classes = one.predictor.class_names, measuring.dataset.names
            published = published_figures(known.variant, one.predictor.size, *classes)
            facts = {**vars(known), "published": published}
        latency = latency_of(times[one.name].image)
        unsteady = latency["p90"] > UNSTEADY * latency["p50"]
        found.append(
            ComparedModel(
                **{"variant": "", **measuring.described(one), **facts},
                name=one.name,
                model=one.candidate.text,
                size=one.predictor.size,
                stats=evaluation.stats,
                interval=None,
                per_class={
                    name: {**values, **evaluation.by_size[name]} for name, values in evaluation.per_class.items()
                },
                class_intervals={},
                errors=evaluation.error_types.gain,
                milliseconds={name: latency[name] for name in ("mean", "p50", "p90", "p99")},
                images_per_second=measuring.settings.batch * len(times[one.name].batch) / sum(times[one.name].batch),
                file_bytes=one.file_bytes,
                memory=memory,
                notes=(
                    *(note for note in evaluation.notes if note not in common),
                    *(*notes, *measuring.notes(one), *((_UNSTEADY_NOTE,) if unsteady else ())),
                ),
            )
        )
    return found


class _Videos:
    """Streaming AP of models, where the data are videos. UserError where they are not."""

    def __init__(self, measuring: Measuring, fps: float, seed: int) -> None:
        from onelook.api.stream import StreamSimulation, check_numbers
        from onelook.streaming import Policy, sequences_of

        check_numbers(fps=fps)
        self.measuring = measuring
        self.simulation = StreamSimulation(
            measuring, sequences_of(measuring.dataset), Policy(), fps=fps, eta=0.0, seed=seed
        )

    def added_to(
        self, models: Sequence[ComparedModel], opened: Sequence[OpenCandidate], evaluations: Sequence[Evaluation]
    ) -> list[ComparedModel]:
        """The models with their streaming AP and run times."""
        from onelook.streaming import RunTimes

        times, found = self.measuring.frame_times(opened), []
        for model, one, evaluation in zip(models, opened, evaluations):
            (streamed,) = self.simulation(one, evaluation, RunTimes(tuple(times[one.name])), ["none"])
            found.append(replace(model, streaming=streamed.streaming, frame_ms=streamed.milliseconds["mean"]))
        return found


def _with_pairs(
    models: Sequence[ComparedModel],
    evaluations: Sequence[Evaluation],
    measuring: Measuring,
    resamples: int | None,
    seed: int,
) -> Comparison:
    """The comparison: intervals of each model, and of the difference of each pair."""
    dataset, pairs = measuring.dataset, list(combinations(range(len(models)), 2))
    count = max(RESAMPLES, RESAMPLES_OF_A_PAIR * len(pairs)) if resamples is None else resamples
    with measuring.reporter.progress("resampling images") as progress:
        samples = resample([match_table(one) for one in evaluations], count, seed, progress)
    truth = measuring.truth
    overall = mean_of_classes(samples)
    differences = compare_pairs([one.stats["AP"] for one in models], overall, pairs)
    compared = []
    for (first, second), difference in zip(pairs, differences):
        a, b = models[first], models[second]
        by_class = [{name: values["AP"] for name, values in one.per_class.items()} for one in (a, b)]
        compared.append(
            ComparedPair(
                a.name,
                b.name,
                difference,
                differences_of(a.stats, b.stats),
                differences_of(*by_class),
                _class_intervals(truth, samples[second] - samples[first]),
                differences_of(a.errors, b.errors),
                b.milliseconds["p50"] / a.milliseconds["p50"],
            )
        )
    return Comparison(
        data=dataset.describe(notes=False),
        images=len(dataset),
        objects=int(evaluations[0].objects.sum()),
        classes=truth.names,
        models=tuple(
            _with_intervals(one, interval(overall[row]), _class_intervals(truth, samples[row]))
            for row, one in enumerate(models)
        ),
        pairs=tuple(compared),
        resamples=count,
        facts=measuring.facts(count, seed),
        notes=tuple(_notes(dataset, models, len(pairs), count)),
    )


def _with_intervals(
    model: ComparedModel, found: tuple[float, float] | None, classes: Mapping[str, tuple[float, float] | None]
) -> ComparedModel:
    return replace(model, interval=found, class_intervals=classes)


def _class_intervals(truth: GroundTruth, samples: np.ndarray) -> dict[str, tuple[float, float] | None]:
    """(resamples, C) -> the interval of every class; None for classes in few images."""
    counted = ~truth.crowds
    places = np.unique(np.stack([truth.labels[counted], truth.images[counted]]), axis=1)
    images = np.bincount(places[0], minlength=len(truth.names))
    return {
        name: interval(samples[:, label]) if images[label] >= FEWEST_IMAGES else None
        for label, name in enumerate(truth.names)
    }


def _data_notes(dataset: Dataset) -> tuple[str, ...]:
    """What is to be known of the data set, whichever model is evaluated: once each, as `onelook.validate` says it."""
    return tuple(dict.fromkeys((*dataset.notes, *evaluation_notes(dataset))))


def _notes(dataset: Dataset, models: Sequence[ComparedModel], pairs: int, resamples: int) -> list[str]:
    """What the reader has to know of all numbers."""
    notes = list(_data_notes(dataset))
    if len(dataset) < FEW_IMAGES:
        notes.append(
            f"{len(dataset)} images are few: intervals from so few are rough, and only large differences can be told."
        )
    if len({one.device for one in models}) > 1:
        notes.append("The models ran on different devices: their times do not compare the models alone.")
    if 2 / (resamples + 1) * pairs >= 1 - LEVEL:
        notes.append(
            f"{resamples} resamples are too few for {pairs} comparisons: no difference among so many can be "
            f"significant. Leave the number of resamples away, or take {RESAMPLES_OF_A_PAIR * pairs}."
        )
    return notes
