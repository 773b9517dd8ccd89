"""The combinations of model, input size and runtime that `onelook stream` tries."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from onelook.api.candidates import Candidate, OpenCandidate, open_candidates
from onelook.api.comparing import Measuring
from onelook.api.open import LoadOptions, check_torch
from onelook.errors import ConfigError, UsageError, did_you_mean
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime

# Endings of the files that weights are exported to, by runtime.
ExportedFor = Literal["onnx", "openvino", "ncnn"]
EXPORTED_SUFFIXES: dict[ExportedFor, str] = {"onnx": ".onnx", "openvino": ".xml", "ncnn": ".ncnn.param"}
RUNTIMES = ("torch", *EXPORTED_SUFFIXES)
EXPORTED = "exported"  # the folder of exported files, in that of the results


def checked_runtimes(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the runtimes, () where each model runs as it is given; UsageError for one that there is not."""
    if given is None:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in (given.split(",") if isinstance(given, str) else given)))
    for name in names or ("",):
        if name not in RUNTIMES:
            raise UsageError(
                f"There is no runtime '{name}' to stream with.{did_you_mean(name, RUNTIMES)}",
                f"Give one or more of {', '.join(RUNTIMES)}.",
            )
    return names


def open_trials(
    candidates: Sequence[Candidate],
    sizes: Sequence[int] | None,
    runtimes: Sequence[str],
    options: LoadOptions,
    measuring: Measuring,
) -> tuple[list[OpenCandidate], tuple[str, ...]]:
    """Every model in every size and runtime, and notes about what is not tried.

    sizes: None is each model's own.  runtimes: () runs each as it is given.  measuring: whose folder weights are
    exported to for a runtime of exported files; a file that is there from an earlier call is used again.

    An exported file has one size and one runtime. ConfigError where a model can be tried in none. DataError for
    weights to export that have no class of the data.
    """
    if sizes is None and not runtimes:
        return open_candidates(candidates, options), ()
    if measuring.folder is None and any(runtime in EXPORTED_SUFFIXES for runtime in runtimes):
        raise UsageError("Without a folder there is no place for the exported files.", "Give a folder (out).")
    opened: list[OpenCandidate] = []
    notes: list[str] = []
    for one in candidates:
        own = _exported_runtime(one, options)
        if own is None:
            tried = _trials_of_weights(one, sizes, runtimes, options, measuring)
        else:
            tried = [(one, options)] if _is_tried(own, sizes, runtimes) else []
            if len(tried) < len(sizes or (0,)) * len(runtimes or (0,)):
                what = f"an exported file has one size, {own.size[0]} x {own.size[1]}, and one runtime"
                notes.append(f"{one.name}: {what}; others are not tried with it.")
        if not tried and own is not None:
            raise ConfigError(
                f"'{one.text}' was exported for {own.size[0]} x {own.size[1]} and {own.library}, "
                "which is not to be tried.",
                "Give its weights, or leave the sizes and runtimes away.",
            )
        for candidate, settings in tried:
            opened += open_candidates([candidate], settings)
    return opened, tuple(notes)


def _is_tried(own: ExportedRuntime, sizes: Sequence[int] | None, runtimes: Sequence[str]) -> bool:
    in_size = sizes is None or any(own.size == (size, size) for size in sizes)
    endings = [EXPORTED_SUFFIXES[one] for one in runtimes if one in EXPORTED_SUFFIXES]
    return in_size and (not runtimes or any(exported_runtime(ending) is type(own) for ending in endings))


def _trials_of_weights(
    one: Candidate,
    sizes: Sequence[int] | None,
    runtimes: Sequence[str],
    options: LoadOptions,
    measuring: Measuring,
) -> list[tuple[Candidate, LoadOptions]]:
    trials = []
    several = tuple(dict.fromkeys(sizes or (None,)))
    for size in several:
        for runtime in runtimes or ("",):
            parts = [one.name, *([str(size)] if len(several) > 1 else []), *([runtime] if len(runtimes) > 1 else [])]
            named, settings = replace(one, name=" ".join(parts)), replace(options, size=size)
            if runtime in EXPORTED_SUFFIXES:
                file = _exported(one, runtime, settings, measuring)
                trials.append((Candidate(named.name, file), replace(options, size=None, half=False)))
            else:
                trials.append((named, settings))
    return trials


def _exported(one: Candidate, runtime: ExportedFor, options: LoadOptions, measuring: Measuring) -> Path:
    """The exported file of a model in a size for a runtime; made where it is not there yet."""
    assert measuring.folder is not None  # `open_trials` has checked it
    check_torch(f"The export for {runtime}")
    from onelook.api.export import export

    opened = open_candidates([one], options)[0]
    if not opened.digest:
        raise UsageError(
            f"{one.name} is in memory, and so cannot be exported here.",
            "Give its weights file, or use onelook.export().",
        )
    measuring.check_classes([opened])
    size = opened.predictor.size
    digest = hashlib.sha256(f"{opened.digest} {size}".encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", one.name)[:60]
    path = measuring.folder / EXPORTED / f"{name}-{size[0]}x{size[1]}-{digest}{EXPORTED_SUFFIXES[runtime]}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        measuring.reporter.info(f"{one.name}: exporting for {runtime} to '{path}'")
        export(one.model, runtime, weights=one.weights, size=size, out=path)
    return path


def _exported_runtime(one: Candidate, options: LoadOptions) -> ExportedRuntime | None:
    """The runtime of an exported file, None for all else."""
    if not isinstance(one.model, str | os.PathLike) or one.weights is not None:
        return None
    if exported_runtime(Path(one.model)) is None or not Path(one.model).is_file():
        return None
    runtime = open_candidates([one], options)[0].predictor.runtime
    return runtime if isinstance(runtime, ExportedRuntime) else None
