"""`onelook.load`: from a name, a file or a run's folder to a Predictor."""

from __future__ import annotations

import os
from pathlib import Path

from onelook.errors import ConfigError, MissingDependencyError, UsageError, WeightsError
from onelook.predict.backends import Backend, OnnxBackend, TorchBackend, exported_metadata, open_session
from onelook.predict.predictor import Predictor


def load(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    tta: bool = False,
    half: bool = False,
) -> Predictor:
    """A detector that is ready to be used.

    model: a variant's name (with `weights`), a weights file, an exported `.onnx` file, or the folder of a run (its
    `best.safetensors`).  device: "cpu", "cuda", "cuda:1", "mps"; None is the first GPU, or the CPU.  size: side or
    (height, width) of the network's input; None is what the weights were made for.  tta: test-time augmentation: every
    image is looked at in three scales, once mirrored.  half: float16, on a GPU only; boxes are made in float32.

    Exported ONNX files need neither torch nor `weights`. Raises UserError for a model that does not exist, weights that
    do not fit, a device that is not there, a size that is no multiple of the network's stride.
    """
    backend = load_backend(model, weights, device, size, tta=tta, half=half)
    on_gpu = getattr(getattr(backend, "device", None), "type", "cpu") != "cpu"
    return Predictor(backend, batch=8 if on_gpu else 1)  # a CPU is as busy with one image as with eight


def load_backend(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    tta: bool = False,
    half: bool = False,
) -> Backend:
    """The same, without what makes detections of its output; what evaluation runs."""
    wanted = _sides(size)
    file = _exported(model, weights)
    if file is not None:
        backend = _onnx(file, device, wanted)
        if backend is not None:
            if tta:
                raise UsageError(
                    f"'{file}' is an exported file, which takes images of one size only.",
                    "Use the weights that it was made of for test-time augmentation.",
                )
            if half:
                raise UsageError(
                    f"'{file}' is an exported file, whose precision is built in.", "Export it with --half instead."
                )
            if weights is not None and backend.metadata.model != os.fspath(model):
                raise WeightsError(
                    f"'{file}' is an exported {backend.metadata.model}, not {os.fspath(model)}.", f"Use --model {file}."
                )
            return backend
    _need_torch(os.fspath(model if weights is None else weights))
    from onelook.models.tta import TestTimeAugmentation
    from onelook.weights import open_detector

    opened = open_detector(model, weights)
    augmentation = TestTimeAugmentation() if tta else None
    return TorchBackend(opened.detector, device, size=wanted or opened.size, half=half, tta=augmentation)


def _exported(model: str | os.PathLike[str], weights: str | os.PathLike[str] | None) -> Path | None:
    """The file that may be an exported one: ONNX files exist with and without a description of themselves."""
    path = Path(model if weights is None else weights)
    if path.suffix.lower() != ".onnx" or path.is_dir() or (weights is not None and Path(model).exists()):
        return None
    if not path.is_file():
        raise WeightsError(f"The weights file '{path}' does not exist.", "Check the path.")
    return path


def _onnx(path: Path, device: str | None, size: tuple[int, int] | None) -> OnnxBackend | None:
    """The exported file's backend; None for an ONNX file of other origin, which may hold weights."""
    if exported_metadata(open_session(str(path), "cpu"), str(path)) is None:
        return None  # its weights may go to a device that ONNX Runtime has not
    backend = OnnxBackend(path, device)
    if size is not None and size != backend.size:
        height, width = backend.size
        raise ConfigError(
            f"'{path}' was exported for {height} x {width}, not {size[0]} x {size[1]}.",
            f"Leave the size away, or export the model with --size {size[0]}.",
        )
    return backend


def _need_torch(model: str) -> None:
    """MissingDependencyError that says what to do without torch."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        also = " It is an ONNX file, but not one that Onelook exported." if model.lower().endswith(".onnx") else ""
        raise MissingDependencyError(
            f"'{model}' needs the package 'torch', which is not installed.{also}",
            "Install it with: pip install torch; or use a model that was exported with `onelook export --to onnx`.",
        ) from error


def _sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and not (
        len(sides) == 2 and all(isinstance(side, int) and 0 < side <= 8192 for side in sides)
    ):
        raise UsageError(f"The size {size} is not usable.", "Give a side, or height and width, up to 8192 pixels.")
    return sides
