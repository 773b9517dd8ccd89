"""Writes a detector to a file of our own format, and restores it from that file alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from onelook.config import from_plain, to_plain
from onelook.errors import ConfigError, WeightsError
from onelook.networks.classifier import Classification
from onelook.networks.deploy import deploy
from onelook.networks.detector import Architecture, Detector
from onelook.networks.variants import ARCHITECTURE_TYPES
from onelook.version import __version__
from onelook.weights.checkpoint import Checkpoint, read_checkpoint
from onelook.weights.header import Header
from onelook.weights.identify import architecture_of, model_name
from onelook.weights.problems import UnreadableFile
from onelook.weights.report import compare
from onelook.weights.safetensors_file import write_safetensors

_KIND = "a weights file of Onelook"
_BRANCHES = 4  # a network in training form has at most so many times the tensors and values of its deploy form


def save_weights(
    model: Detector,
    path: str | os.PathLike[str],
    *,
    recipe: Any = None,
    metrics: Mapping[str, float] | None = None,
    size: tuple[int, int] | None = None,
    trained: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the model as a safetensors file that `restore` needs nothing else for; returns the path.

    recipe: of the training, a value or its plain form.  metrics: what the weights reached, by name.  size: (height,
    width) they were trained for; None is the architecture's.  trained: when and on what, see `Header`.

    The file appears whole or not at all. WeightsError for what is no `Detector`, for a model without an architecture,
    and for a place that cannot be written.
    """
    architecture = architecture_of(model)
    header = Header(
        model=model_name(architecture),
        architecture=to_plain(architecture),
        class_names=model.class_names,
        size=architecture.size if size is None else size,
        preprocessing={"pixels": "rgb, 0..255", "frame": to_plain(architecture.frame)},
        form="deploy" if model.deployed else "training",
        version=__version__,
        recipe=recipe if recipe is None or isinstance(recipe, Mapping) else to_plain(recipe),
        metrics={name: float(value) for name, value in (metrics or {}).items()},
        trained=trained,
    )
    return write_safetensors(path, model.state_dict(), header)


def is_classifier(checkpoint: Checkpoint) -> bool:
    """Whether a file of ours holds an image classifier, not a detector."""
    return checkpoint.header is not None and checkpoint.header.architecture.get("type") == Classification.__name__


def restore(path: str | os.PathLike[str]) -> Detector:
    """The detector that `save_weights` wrote: architecture, form, class names and tensors, in the file's dtype.

    WeightsError for a file that is damaged, not ours, or whose tensors are not those of its architecture; before memory
    is taken for a network, its size is compared with the file's.
    """
    checkpoint = read_checkpoint(path)
    header = checkpoint.header
    if header is None:
        raise WeightsError(
            f"'{checkpoint.path}' does not say which network it is for.",
            f"Name the model: --model NAME --weights {checkpoint.path}; in Python, load_weights(build(NAME), path).",
        )
    try:
        architecture = _architecture(header)
        found = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
        with torch.device("meta"), limited_parameters(len(found)), warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of layers without any channels
            shapes = architecture.build().state_dict()
        values = sum(tensor.numel() for tensor in shapes.values())
        if values > _BRANCHES * sum(tensor.numel() for tensor in checkpoint.tensors.values()) + 1_000_000:
            raise UnreadableFile(f"its architecture has {values} values, far more than the file")
        detector = architecture.build()
        if header.form == "deploy":
            detector = deploy(detector)
        difference = compare({name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}, found)
        if difference:
            raise difference.error(checkpoint.path, "the architecture that it names", None)
        if header.class_names and len(header.class_names) != architecture.num_classes:
            raise UnreadableFile(f"it names {len(header.class_names)} classes and has {architecture.num_classes}")
    except ConfigError as error:
        raise UnreadableFile(f"its architecture is damaged: {error.message.rstrip('.')}").to_weights_error(
            path, _KIND
        ) from error
    except (UnreadableFile, TypeError, ValueError, RuntimeError, ArithmeticError, UserWarning) as error:
        unreadable = error if isinstance(error, UnreadableFile) else UnreadableFile("its architecture cannot be built")
        raise unreadable.to_weights_error(path, _KIND) from error
    kinds = [tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_floating_point()]
    detector = detector.to(kinds[0]) if kinds else detector
    detector.load_state_dict(checkpoint.tensors)
    detector.class_names = header.class_names
    return detector


def _architecture(header: Header) -> Architecture:
    architecture = from_plain(header.architecture, ARCHITECTURE_TYPES)
    if not isinstance(architecture, Architecture):
        raise UnreadableFile("its architecture is none")
    return architecture


@contextmanager
def limited_parameters(limit: int) -> Iterator[None]:
    """Raises UnreadableFile while a network of far more than `limit` parameters is built: files may claim any depth."""
    count, thread = 0, get_ident()

    def hook(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if get_ident() == thread:
            count += 1
            if count > _BRANCHES * limit:
                raise UnreadableFile("its architecture has more layers than the file has tensors")

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
