"""Opens a model, whatever names it: a variant with weights, a file, the folder of a run, or a detector in memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Union

from onelook import run_files
from onelook.devices import choose_device
from onelook.errors import (
    ConfigError,
    MissingDependencyError,
    UsageError,
    UserError,
    WeightsError,
    install_command,
    missing_weights,
)
from onelook.exported import METADATA_KEY
from onelook.predict.predictor import Predictor
from onelook.predict.runtime import Runtime
from onelook.predict.runtimes import check_whole, exported_runtime
from onelook.predict.runtimes.exported import ExportedRuntime, ForeignFileError
from onelook.threads import check_threads, limit_torch_threads

if TYPE_CHECKING:
    from onelook.networks.detector import Detector
    from onelook.weights.open import OpenedDetector

PathLike = str | os.PathLike[str]
"""A path: text, or a `pathlib.Path`."""

Model = Union[PathLike, "Detector", Predictor]
"""A variant's name, a weights file, an exported file, the folder of a run, a `Detector` in memory, or a `Predictor`."""

LARGEST_SIDE = 8192
GPU_BATCH = 8  # a CPU is as busy with one image as with eight


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded. The fields are those of `onelook.load`."""

    weights: PathLike | None = None
    device: str | None = None
    size: int | tuple[int, int] | None = None
    tta: bool = False
    half: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from. stamps: size and time of change of its files when it was opened."""

    model: PathLike | Detector
    weights: PathLike | None = None
    size: tuple[int, int] | None = None
    stamps: tuple[tuple[str, int, int], ...] = ()

    def check_unchanged(self) -> None:
        """UserError where a file is no longer the one that was opened."""
        for path, size, changed in self.stamps:
            try:
                status = os.stat(path)
                same = (status.st_size, status.st_mtime_ns) == (size, changed)
            except OSError:
                same = False
            if not same:
                raise UserError(f"'{path}' has changed since the detector was loaded.", "Load the detector again.")


class OpenedPredictor(Predictor):
    """A predictor that remembers where its model comes from."""

    def __init__(self, runtime: Runtime, source: ModelSource, *, batch: int) -> None:
        super().__init__(runtime, batch=batch)
        self.source = source


def open_predictor(model: Model, options: LoadOptions) -> Predictor:
    """A predictor for the model: see `onelook.load`. A predictor is returned as it is, and takes no other settings."""
    if isinstance(model, Predictor):
        _check_no_settings(**vars(options))
        return model
    runtime = open_runtime(model, options)
    beside = runtime.files() if isinstance(runtime, ExportedRuntime) else ()
    source = ModelSource(model, options.weights, runtime.size, stamps_of(model, options.weights, *beside[1:]))
    return OpenedPredictor(runtime, source, batch=_usual_batch(runtime))


def _usual_batch(runtime: Runtime) -> int:
    """Most images in one run: those of a file of a fixed batch, which would be filled up; else by the device."""
    if isinstance(runtime, ExportedRuntime):
        if runtime.metadata.batch is not None:
            return runtime.metadata.batch
        kind = runtime.device_name.lower().replace(".", ":").partition(":")[0]
        on_gpu = kind in ("cuda", "gpu", "mps") or kind.isdecimal()  # a number is a CUDA device
    else:
        on_gpu = getattr(getattr(runtime, "device", None), "type", "cpu") != "cpu"
    return GPU_BATCH if on_gpu else 1


def open_runtime(model: PathLike | Detector, options: LoadOptions) -> Runtime:
    """The runtime of a model: for an exported file that of its format, else PyTorch."""
    weights, device, threads = options.weights, options.device, options.threads
    check_threads(threads)
    sides = _sides(options.size)
    if isinstance(model, str | os.PathLike):
        exported = _open_exported(model, options)
        if exported is not None:
            _check_exported(exported, model, options, sides)
            return exported
    with _no_garbage_collection():
        if weights is None:
            check_torch(_name_of(model), is_name=isinstance(model, str | os.PathLike) and not os.path.exists(model))
        else:
            check_torch(os.fspath(weights))
        from onelook.networks.tta import TestTimeAugmentation
        from onelook.predict.runtimes.torch import TorchRuntime

        if choose_device(device).type == "cpu":
            limit_torch_threads(threads)
        opened = open_network(model, weights)
        augmentation = TestTimeAugmentation() if options.tta else None
        read_here = isinstance(model, str | os.PathLike)  # nothing else holds the detector: it may be changed
        size, half = sides or opened.size, options.half
        return TorchRuntime(opened.detector, device, size=size, half=half, tta=augmentation, in_place=read_here)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switches garbage collection off: importing PyTorch and making a network is then a tenth faster."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def open_network(model: Model, weights: PathLike | None = None, *, untrained: bool = False) -> OpenedDetector:
    """The PyTorch detector of a model, with its name and input size.

    untrained: a variant's name without weights is freshly initialised instead of a WeightsError. Raises UserError for
    a predictor whose file can no longer be read as it was, and for exported files, which hold no network in PyTorch.
    """
    from onelook.networks.detector import Detector
    from onelook.weights.identify import model_name
    from onelook.weights.open import OpenedDetector, open_detector

    if isinstance(model, Predictor):
        _check_no_settings(weights=weights)
        if not isinstance(model, OpenedPredictor):
            raise UsageError(
                "This predictor was made of a runtime alone: the model behind it is unknown.",
                "Make the predictor with onelook.load().",
            )
        model.source.check_unchanged()
        opened = open_network(model.source.model, model.source.weights)
        return replace(opened, size=model.source.size or opened.size)
    if isinstance(model, Detector):
        _check_no_settings(weights=weights)
        if model.architecture is None:
            raise UsageError("This detector has no architecture.", "Make it with onelook.build().")
        return OpenedDetector(model, model_name(model.architecture), model.architecture.size)
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"A value of type '{type(model).__name__}' is no model.", "Give a name, a path, or a detector."
        )
    for given in (model, weights):
        if given is not None:
            check_whole(given)
        kind = None if given is None else exported_runtime(given)
        if kind is not None and not kind.holds_weights:
            raise UsageError(
                f"'{os.fspath(given or model)}' is an exported file, and PyTorch cannot take weights from it.",
                "Use the weights file, the ONNX file or the folder of the run that it was made of.",
            )
    return open_detector(model, weights, untrained=untrained)


def check_torch(what: str, *, is_name: bool = False) -> None:
    """MissingDependencyError where PyTorch is not installed. what: the model or the work that needs it.

    is_name: a model that is no file or folder, so that it is the name of one, or a wrong path.
    """
    if not has_torch():
        also = " It is an ONNX file, but not one that Onelook exported." if what.lower().endswith(".onnx") else ""
        also = " If it is meant as a path: there is no file or folder of that name." if is_name else also
        raise MissingDependencyError(
            f"'{what}' needs the package 'torch', which is not installed.{also}",
            f"Install it with: {install_command('train')}; or use a model that was exported with `onelook export`.",
        )


def _open_exported(model: PathLike, options: LoadOptions) -> ExportedRuntime | None:
    """The runtime of an exported file; None for everything else, foreign ONNX files with weights among them."""
    weights = options.weights
    path = Path(model if weights is None else weights)
    runtime = exported_runtime(path)
    if runtime is None:
        check_whole(path)
    if runtime is None or path.is_dir() or (weights is not None and Path(model).exists()):
        return None
    if not path.is_file():
        raise missing_weights(os.fspath(model if weights is None else weights))
    if runtime.holds_weights and weights is not None and not names_onelook(path) and has_torch():
        return None  # opening a session only to see that takes a tenth of a second
    try:
        return runtime(path, options.device, threads=options.threads, half=options.half)
    except ForeignFileError:
        if not runtime.holds_weights:
            raise
        return None


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def names_onelook(path: Path) -> bool:
    """Whether the bytes of a description by Onelook occur in a file; True where the file cannot be searched."""
    try:
        with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return content.find(METADATA_KEY.encode()) >= 0
    except (OSError, ValueError):
        return True


def _check_exported(
    exported: ExportedRuntime, model: PathLike, options: LoadOptions, sides: tuple[int, int] | None
) -> None:
    """UserError for settings that an exported file cannot have."""
    file = exported.path
    if sides is not None and sides != exported.size:
        height, width = exported.size
        raise ConfigError(
            f"'{file}' was exported for {height} x {width}, not {sides[0]} x {sides[1]}.",
            f"Leave the size away, or export the model with size {sides[0]}.",
        )
    if options.tta:
        raise UsageError(
            f"'{file}' is an exported file, which takes images of one size only.",
            "Use the weights that it was made of for test-time augmentation.",
        )
    if options.weights is not None and exported.metadata.model != os.fspath(model):
        raise WeightsError(
            f"'{file}' is an exported {exported.metadata.model}, not {os.fspath(model)}.", f"Use {file} as the model."
        )


def _check_no_settings(**settings: object) -> None:
    given = [name for name, value in settings.items() if value not in (None, False)]
    if given:
        raise UsageError(
            f"The model is in memory already, so '{given[0]}' cannot be chosen.", "Give it to onelook.load()."
        )


def _name_of(model: PathLike | Detector) -> str:
    return os.fspath(model) if isinstance(model, str | os.PathLike) else type(model).__name__


def stamps_of(*paths: object) -> tuple[tuple[str, int, int], ...]:
    """Size and time of change of the files among these."""
    found = []
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            continue
        file = os.path.join(path, run_files.BEST_WEIGHTS) if os.path.isdir(path) else os.fspath(path)
        if os.path.isfile(file):
            status = os.stat(file)
            found.append((file, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and not (
        len(sides) == 2 and all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in sides)
    ):
        raise UsageError(
            f"The size {size} is not usable.", f"Give a side, or height and width, up to {LARGEST_SIDE} pixels."
        )
    return sides
