"""From a model's name, a weights file or a run's folder to a detector with its weights."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from onelook import run_files
from onelook.config import change
from onelook.errors import ConfigError, UserError, WeightsError, did_you_mean, is_address, missing_weights
from onelook.exported import ExportedMetadata
from onelook.networks.build import build
from onelook.networks.detector import Architecture, Detector
from onelook.networks.model_file import is_model_file
from onelook.networks.variants import VARIANTS, variant
from onelook.weights.checkpoint import read_checkpoint
from onelook.weights.identify import identify
from onelook.weights.load import load_weights
from onelook.weights.naming import read_official
from onelook.weights.own_format import is_classifier, restore

_FILES = (".safetensors", ".onnx", ".pth", ".pt", ".weights")


@dataclass(frozen=True)
class OpenedDetector:
    """A detector, how files made of it are display_name, and the (height, width) that its weights were made for.

    exported: the metadata of the exported file that the weights come from, if they do; its size is then `size`.
    """

    detector: Detector
    name: str
    size: tuple[int, int]
    exported: ExportedMetadata | None = None


def open_detector(
    model: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> OpenedDetector:
    """The detector that `model` means, with the classes of its weights.

    model: a variant's name (with `weights`), a weights file of any supported format, or the folder of a run (its
    `best.safetensors`), or a model file (with `weights`). A file that does not say what it holds is recognised by its
    tensors.  weights: a file, or the folder of a run.  untrained: a name without weights is freshly initialised, where
    it otherwise is a WeightsError.

    Raises ConfigError for an unknown name and for two sets of weights, WeightsError for files that cannot be used.
    """
    if not os.fspath(model):
        raise ConfigError("No model was named.", "Give a name (see `onelook models`), a file, or the folder of a run.")
    path = Path(model)
    if is_model_file(path):
        return _of_model_file(path, weights, untrained=untrained)
    if path.is_dir():
        _check_no_weights(weights, path)
        return _of_file(weights_file(path), path.name)
    if path.suffix.lower() in _FILES or path.is_file():
        _check_no_weights(weights, path)
        return _of_file(path, path.stem)
    name = os.fspath(model)
    if name not in VARIANTS:  # the name is checked before anything is read
        raise _unknown(name)
    row = VARIANTS[name]
    if weights is not None:
        return _of_file(weights_file(weights), name, name)
    if not untrained:
        where = f" The official ones are at {row.url}." if row.url else ""
        raise WeightsError(f"The model '{name}' has no weights yet.", f"Give a file as weights.{where}")
    return OpenedDetector(build(name), name, row.architecture.size)


def _of_model_file(path: Path, weights: str | os.PathLike[str] | None, *, untrained: bool) -> OpenedDetector:
    """The detector of a model file, with weights of a training of it."""
    row = variant(str(path))
    if weights is None:
        if not untrained:
            raise WeightsError(
                f"The model '{path}' has no weights: the file holds its architecture only.",
                "Give the weights of a training of it, or that run's folder as the model.",
            )
        return OpenedDetector(build(row.architecture), row.name, row.architecture.size)
    opened = _of_file(weights_file(weights), row.name)
    found = opened.detector.architecture
    if found is None or _without_classes(found) != _without_classes(row.architecture):
        raise WeightsError(f"'{os.fspath(weights)}' holds weights of another network than '{path}'.", "Check both.")
    return opened


def _without_classes(architecture: Architecture) -> Architecture:
    """The architecture with a class count and a size that do not differ between trainings of one network."""
    return change(architecture, {"num_classes": 1, "size": (32, 32)})


def _of_file(path: Path, display_name: str, name: str | None = None) -> OpenedDetector:
    """The detector of a weights file, which must be a `name` if one is given."""
    checkpoint = read_checkpoint(path)
    header = checkpoint.header
    if is_classifier(checkpoint):
        raise WeightsError(
            f"'{path}' holds an image classifier, not a detector.",
            f"Train a detector from its backbone: onelook train DATA --model NAME --weights {path}.",
        )
    if header is not None:
        if name is not None and header.model != name:
            raise WeightsError(
                f"'{path}' holds weights of {header.model}, not of {name}.", f"Give the file as the model: {path}."
            )
        return OpenedDetector(restore(path), display_name, (header.size[0], header.size[1]))
    exported = checkpoint.exported
    if name is None and exported is not None and exported.model in VARIANTS:
        name = exported.model
    if name is None:
        found = identify(checkpoint)
        if found is None:
            raise WeightsError(
                f"'{path}' does not say which model it holds, and its tensors are of none that is known.",
                f"Give the name of the model, and {path} as weights.",
            )
        name, architecture = found
    else:
        architecture = VARIANTS[name].architecture
        official = read_official(architecture, checkpoint)
        architecture = architecture if official is None else official.architecture
    detector = build(architecture)
    report = load_weights(detector, path)
    if report.file_classes != detector.class_names:
        detector = build(architecture, report.file_classes)  # weights for other classes make a model of those
        load_weights(detector, path)
    size = architecture.size if exported is None else exported.size
    return OpenedDetector(detector, display_name, size, exported)


def _unknown(name: str) -> UserError:
    """The error for what is neither a model's name nor a path that exists; where it looks like a path, about that."""
    if is_address(name):
        return missing_weights(name)
    path = Path(name)
    if path.parent == Path(".") and not name.startswith("."):
        missing = f"There is no model '{name}', nor a file or a run's folder of that name."
        remedy = "Check the path, or see the names with: onelook models"
        return ConfigError(f"{missing}{did_you_mean(name, VARIANTS)}", remedy)
    if not path.parent.is_dir():
        return ConfigError(f"'{name}' does not exist, nor does the folder '{path.parent}'.", "Check the path.")
    runs = sorted(best.parent.name for best in path.parent.glob(f"*/{run_files.BEST_WEIGHTS}"))
    listed = ", ".join(runs[:10]) + (", ..." if len(runs) > 10 else "")
    remedy = f"Runs with weights in '{path.parent}': {listed}." if runs else "Check the path."
    return ConfigError(f"'{name}' does not exist.{did_you_mean(path.name, runs)}", remedy)


def weights_file(weights: str | os.PathLike[str]) -> Path:
    """The file itself, or the best weights in the folder of a run; WeightsError for a folder without them."""
    folder = Path(weights)
    if not folder.is_dir():
        return folder
    if (folder / run_files.BEST_WEIGHTS).is_file():
        return folder / run_files.BEST_WEIGHTS
    if (folder / run_files.RECIPE).is_file():
        raise WeightsError(
            f"The run in '{folder}' has no weights yet: it stopped before the end of its first epoch.",
            f"Continue it: onelook train DATA --out {shlex.quote(str(folder))} --resume.",
        )
    inside = sorted(path.name for path in folder.iterdir() if path.suffix in _FILES)
    if inside:
        raise WeightsError(
            f"The folder '{folder}' has no {run_files.BEST_WEIGHTS}.", f"Name the file: {folder / inside[0]}."
        )
    raise WeightsError(
        f"The folder '{folder}' is not a run: it has no {run_files.BEST_WEIGHTS}.", "Name the folder of a training."
    )


def _check_no_weights(weights: str | os.PathLike[str] | None, model: Path) -> None:
    if weights is not None:
        raise ConfigError(
            f"Two sets of weights were given: '{model}' and '{weights}'.",
            "Name the model by its variant, or leave one out.",
        )
