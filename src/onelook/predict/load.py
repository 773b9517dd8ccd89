"""`onelook.load`: from a name, a file or a run's folder to a Predictor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onelook.errors import ConfigError, MissingDependencyError, WeightsError
from onelook.predict.backends import Backend, OnnxBackend, TorchBackend, exported_metadata, open_session
from onelook.predict.predictor import Predictor

if TYPE_CHECKING:
    from onelook.models.detector import Detector

BEST = "best.safetensors"
_FILES = (".safetensors", ".onnx", ".pth", ".pt", ".weights")


def load(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    size: int | tuple[int, int] | None = None,
) -> Predictor:
    """A detector that is ready to be used.

    model: a variant's name (with `weights`), a weights file, an exported `.onnx` file, or the folder of a run (its
    `best.safetensors`).  device: "cpu", "cuda", "cuda:1", "mps"; None is the first GPU, or the CPU.  size: side or
    (height, width) of the network's input; None is what the weights were made for.

    Exported ONNX files need neither torch nor `weights`. Raises UserError for a model that does not exist, weights that
    do not fit, a device that is not there, a size that is no multiple of the network's stride.
    """
    backend = load_backend(model, weights, device, size)
    on_gpu = getattr(getattr(backend, "device", None), "type", "cpu") != "cpu"
    return Predictor(backend, batch=8 if on_gpu else 1)  # a CPU is as busy with one image as with eight


def load_backend(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    size: int | tuple[int, int] | None = None,
) -> Backend:
    """The same, without what makes detections of its output; what evaluation runs."""
    wanted = _sides(size)
    path = Path(model)
    if path.is_dir():
        _no_weights(weights, path)
        return _restored(_best(path), device, wanted)
    if path.suffix.lower() in _FILES or path.is_file():
        _no_weights(weights, path)
        if not path.is_file():
            raise WeightsError(f"The model '{path}' does not exist.", "Check the path.")
        if path.suffix.lower() == ".onnx":
            return _onnx(path, device, wanted) or _named(path, device, wanted)
        return (
            _restored(path, device, wanted) if path.suffix.lower() == ".safetensors" else _named(path, device, wanted)
        )
    name = os.fspath(model)
    if weights is not None and Path(weights).suffix.lower() == ".onnx" and Path(weights).is_file():
        exported = _onnx(Path(weights), device, wanted)
        if exported is not None:
            if exported.metadata.model != name:
                raise WeightsError(
                    f"'{weights}' is an exported {exported.metadata.model}, not {name}.", f"Use --model {weights}."
                )
            return exported
    return _variant(name, weights, device, wanted)


def _onnx(path: Path, device: str | None, size: tuple[int, int] | None) -> OnnxBackend | None:
    """The exported file's backend; None for an ONNX file of other origin, which may hold weights."""
    if exported_metadata(open_session(str(path), device), str(path)) is None:
        return None
    backend = OnnxBackend(path, device)
    if size is not None and size != backend.size:
        height, width = backend.size
        raise ConfigError(
            f"'{path}' was exported for {height} x {width}, not {size[0]} x {size[1]}.",
            f"Leave the size away, or export the model with --size {size[0]}.",
        )
    return backend


def _variant(
    name: str, weights: str | os.PathLike[str] | None, device: str | None, size: tuple[int, int] | None
) -> TorchBackend:
    """A named architecture with weights from a file."""
    _need_torch(name, weights)
    from onelook.models.variants import variant

    row = variant(name)  # the name is checked before anything is read
    if weights is None:
        where = f" The official ones are at {row.url}." if row.url else ""
        raise WeightsError(f"The model '{name}' has no weights yet.", f"Give a file: --weights FILE.{where}")
    return TorchBackend(_with_weights(name, Path(weights)), device, size=size)


def _with_weights(name: str, path: Path) -> Detector:
    """The named architecture with the classes and weights of a file."""
    from onelook.models.build import build
    from onelook.weights import load_weights, read_header, restore

    if path.suffix.lower() == ".safetensors" and path.is_file():
        said = read_header(path).model
        if said != name:
            raise WeightsError(f"'{path}' holds weights of {said}, not of {name}.", f"Use --model {path}.")
        return restore(path)
    detector = build(name)
    load_weights(detector, path)
    return detector


def _restored(path: Path, device: str | None, size: tuple[int, int] | None) -> TorchBackend:
    """A file of our own format, which says itself what it is."""
    _need_torch(str(path), None)
    from onelook.weights import read_header, restore

    trained = read_header(path).size
    return TorchBackend(restore(path), device, size=size or (trained[0], trained[1]))


def _named(path: Path, device: str | None, size: tuple[int, int] | None) -> TorchBackend:
    """Weights of another origin: the architecture is recognised by its tensors."""
    _need_torch(str(path), path)
    from onelook.weights import read_checkpoint
    from onelook.weights.lookalike import lookalike

    name = lookalike(read_checkpoint(path))
    if name is None:
        raise WeightsError(
            f"'{path}' does not say which model it holds, and its tensors are of none that is known.",
            f"Name the model: --model NAME --weights {path}.",
        )
    return TorchBackend(_with_weights(name, path), device, size=size)


def _need_torch(model: str, weights: str | os.PathLike[str] | None) -> None:
    """MissingDependencyError that says what to do without torch."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        what = model if weights is None else str(weights)
        also = " It is an ONNX file, but not one that Onelook exported." if what.lower().endswith(".onnx") else ""
        raise MissingDependencyError(
            f"'{what}' needs the package 'torch', which is not installed.{also}",
            "Install it with: pip install torch; or use a model that was exported with `onelook export --to onnx`.",
        ) from error


def _best(folder: Path) -> Path:
    if (folder / BEST).is_file():
        return folder / BEST
    inside = sorted(path.name for path in folder.iterdir() if path.suffix in _FILES)
    if inside:
        raise WeightsError(f"The folder '{folder}' has no {BEST}.", f"Name the file: {folder / inside[0]}.")
    raise WeightsError(f"The folder '{folder}' is not a run: it has no {BEST}.", "Name the folder of a training.")


def _no_weights(weights: str | os.PathLike[str] | None, model: Path) -> None:
    if weights is not None:
        raise ConfigError(
            f"Two sets of weights were given: '{model}' and '{weights}'.",
            "Name the model by its variant, or leave one out.",
        )


def _sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and not (
        len(sides) == 2 and all(isinstance(side, int) and 0 < side <= 8192 for side in sides)
    ):
        raise ConfigError(f"The size {size} is not usable.", "Give a side, or height and width, up to 8192 pixels.")
    return sides
