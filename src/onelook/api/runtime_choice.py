"""What runs a model on a CPU: PyTorch, or ONNX Runtime with a cached file that was made of the weights.

The file itself is `cached_onnx`, which is imported where weights are given: an exported file needs none of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from onelook.api.open import (
    LoadOptions,
    Model,
    OpenedPredictor,
    PathLike,
    names_onelook,
    open_network,
    open_predictor,
    stamps_of,
)
from onelook.devices import has_no_gpu
from onelook.errors import ExportError, UsageError, UserError, install_command, missing_package
from onelook.ops.nms import Nms
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import Runtime
from onelook.predict.runtimes import exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime
from onelook.predict.runtimes.onnx import OnnxRuntime
from onelook.predict.thread_trial import ThreadChoosingRuntime, ThreadedRuntime
from onelook.reporter import Reporter
from onelook.threads import check_threads, has_limited_threads, threads_note

if TYPE_CHECKING:
    from onelook.api.cached_onnx import CachedOnnx

RuntimeName = Literal["auto", "torch", "onnx"]
"""What runs weights on a CPU: PyTorch, ONNX Runtime, or whichever takes less time."""

LEAST_SECONDS = 60.0
"""Seconds that PyTorch would take for a run, from which on an export for it pays: it takes about 10."""

LARGEST_PART = 0.5
"""The export is stopped after this part of the time that PyTorch would take for the whole run."""

_LONGEST_EXPORT = 1800.0  # seconds, where ONNX Runtime was asked for
_WORTH_MEASURING = 30  # images; fewer do not take a minute


def open_cached(model: Model, options: LoadOptions, runtime: RuntimeName, reporter: Reporter) -> Predictor:
    """A predictor for the model, of its cached ONNX file where there is one. runtime "onnx" makes it where not."""
    if runtime not in get_args(RuntimeName):
        raise UsageError(f"There is no runtime '{runtime}'.", f"Give one of: {', '.join(get_args(RuntimeName))}.")
    check_threads(options.threads)  # before an export
    reason = _not_for(model, options)
    if runtime == "onnx" and reason:
        raise UsageError(f"The runtime 'onnx' cannot be chosen: {reason}.", "Leave it away.")
    if runtime == "torch" or reason:
        return open_predictor(model, options)
    assert isinstance(model, str | os.PathLike)
    from onelook.api.cached_onnx import cached_onnx

    cached = cached_onnx(model, options)
    path = None if cached is None else cached.find()
    if path is None and runtime == "onnx":
        _check_exporter()
        open_network(model, options.weights)  # whose errors are those of the model
        if cached is None:
            raise ExportError("No ONNX file can be made of this model.", "Use --runtime torch.")
        with reporter.progress("exporting for ONNX Runtime"):
            path = _made(cached, _LONGEST_EXPORT)
    if path is None:
        if cached is not None and (stale := next((place for place in cached.places if place.is_file()), None)):
            reporter.info(f"'{stale}' is damaged, or of other weights or versions; --runtime onnx makes it anew.")
        return open_predictor(model, options)
    return _opened(path, model, options, reporter)


def exported_where_it_pays(
    predictor: Predictor,
    options: LoadOptions,
    runtime: RuntimeName,
    reporter: Reporter,
    *,
    images: Callable[[], int],
    batch: int,
) -> Predictor:
    """The predictor, or one of a new ONNX file where PyTorch on a CPU would take `LEAST_SECONDS` for the images.

    images: gives their number; videos are opened for that.  batch: images in one run. A run with an export takes at
    most `LARGEST_PART` longer than PyTorch alone would.
    """
    source = predictor.source if isinstance(predictor, OpenedPredictor) else None
    model = None if source is None else source.model
    if runtime != "auto" or isinstance(predictor.runtime, OnnxRuntime):
        return predictor
    if not isinstance(model, str | os.PathLike) or _not_for(model, options):
        return predictor
    count = images()
    if count < _WORTH_MEASURING:
        return predictor
    expected = count * _seconds_an_image(predictor, batch)
    if expected < LEAST_SECONDS:
        return predictor
    try:
        _check_exporter()
    except UserError:
        reporter.info(f"ONNX Runtime would take less time than PyTorch here: {install_command('onnx')}")
        return predictor
    from onelook.api.cached_onnx import cached_onnx

    cached = cached_onnx(model, options)
    limit = expected * LARGEST_PART
    failure = None if cached is None else cached.failure()
    if cached is None or (failure and (failure.seconds is None or failure.seconds * 2 > limit)):
        return predictor
    if not any(os.access(_existing(place.parent), os.W_OK) for place in cached.places):
        return predictor
    reporter.info(f"PyTorch would take {expected:.0f} s: exporting once for ONNX Runtime, which takes less.")
    try:
        path = _made(cached, limit)
    except UserError as error:
        reporter.info(f"{error.message} PyTorch runs.")
        return predictor
    return _opened(path, model, options, reporter)


@contextmanager
def with_thread_trial(
    runtime: Runtime, model: Model, threads: int | None, reporter: Reporter, *, tries: bool = True
) -> Iterator[Runtime]:
    """A runtime whose first runs choose its threads, on a CPU whose cores are busy, in PyTorch and in ONNX Runtime.

    Everywhere else it is the runtime itself, as for a model that was loaded before: its threads were chosen then. Says
    how many there are. PyTorch's are afterwards as before. threads: what the user gave.  tries: whether there may be a
    choice.
    """
    busy = not isinstance(model, Predictor) and report_threads(runtime, threads, reporter)
    if not busy or not tries or not isinstance(runtime, ThreadedRuntime):
        yield runtime
        return
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        yield ThreadChoosingRuntime(runtime, reporter.info)
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def report_threads(runtime: Runtime, threads: int | None, reporter: Reporter) -> bool:
    """Says it where fewer threads than cores were chosen for a runtime on the CPU, and whether that is so.

    threads: what the user gave.
    """
    note = threads_note(threads) if _has_chosen_threads(runtime) else None
    if note is not None:
        reporter.info(note)
    return note is not None


def _has_chosen_threads(runtime: Runtime) -> bool:
    """Whether it runs on the CPU, with a number of threads that was chosen here."""
    if isinstance(runtime, ExportedRuntime) and not hasattr(runtime, "device"):  # which is PyTorch's
        return runtime.device_name == "cpu"
    return getattr(getattr(runtime, "device", None), "type", "") == "cpu" and has_limited_threads()


def _not_for(model: Model, options: LoadOptions) -> str:
    """Why ONNX Runtime does not run this model in place of PyTorch; "" where it can."""
    if not isinstance(model, str | os.PathLike):
        return "the model is in memory"
    path = model if options.weights is None else options.weights
    runtime = exported_runtime(path)
    if runtime is not None and (not runtime.holds_weights or names_onelook(Path(path))):
        return "the model is an exported file"
    if options.tta or options.half:
        return "it has neither test-time augmentation nor half precision"
    if options.device != "cpu" and not (options.device is None and has_no_gpu()):
        return "it is for the device cpu"
    return ""


def _opened(path: Path, model: PathLike, options: LoadOptions, reporter: Reporter) -> Predictor:
    """The predictor of a cached file, which remembers the weights as its source; says so."""
    opened = open_predictor(path, LoadOptions(device="cpu", threads=options.threads))
    assert isinstance(opened, OpenedPredictor)
    library = getattr(opened.runtime, "library", "ONNX Runtime")
    reporter.info(f"Running '{path}' in {library}, verified against PyTorch (--runtime torch runs PyTorch itself).")
    stamps = stamps_of(model, options.weights)
    opened.source = replace(opened.source, model=model, weights=options.weights, stamps=stamps)
    return opened


def _made(cached: CachedOnnx, seconds: float) -> Path:
    """A new cached file. ExportError where it cannot be made or written."""
    try:
        return cached.make(seconds)
    except OSError as error:
        raise ExportError(f"The ONNX file cannot be written: {error}.", "Use --runtime torch.") from error


def _check_exporter() -> None:
    """MissingDependencyError where the packages of the export are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_package(package, "Running weights in ONNX Runtime", work="export")


def _seconds_an_image(predictor: Predictor, batch: int) -> float:
    """How long PyTorch takes for one image: the second run of an empty batch."""
    pixels = np.zeros((batch, *predictor.size, 3), np.uint8)
    predictor.runtime(pixels, Nms())
    started = time.perf_counter()
    predictor.runtime(pixels, Nms())
    return (time.perf_counter() - started) / batch


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((one for one in (folder, *folder.parents) if one.is_dir()), folder)
