"""Identifies the known model that a file's tensors belong to, for messages and headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from onelook.errors import WeightsError
from onelook.layers.rep_conv import RepConv
from onelook.layers.training_only import TrainingOnly
from onelook.networks.detector import Architecture
from onelook.networks.variants import VARIANTS
from onelook.weights.checkpoint import Checkpoint
from onelook.weights.naming import read_official

_FREE = ("num_classes", "size", "anchors")  # what may change while a model keeps its name
_SIMILAR = 0.9  # of all kernels; neighbours in a table share less than half


def architecture_of(model: object) -> Architecture:
    """What a model was built from; WeightsError for what is no `Detector` (or classifier), or does not say it."""
    if not isinstance(model, nn.Module) or not hasattr(model, "architecture"):
        raise WeightsError(
            f"'model' must be a Detector, not {type(model).__name__}.",
            "onelook.build(name) makes one, and onelook.load_weights(detector, file) fills it.",
        )
    if model.architecture is None:
        raise WeightsError("This model does not say what it is.", "Make it with onelook.build().")
    return cast(Architecture, model.architecture)


def model_name(architecture: Architecture) -> str:
    """The variant that this is, of any class count, size and anchors; else the name of the architecture's type."""
    for row in VARIANTS.values():
        if type(row.architecture) is type(architecture):
            kept = (field.name for field in fields(cast(Any, architecture)) if field.name not in _FREE)
            if all(getattr(row.architecture, name) == getattr(architecture, name) for name in kept):
                return row.name
    return type(architecture).__name__


def likely_model(checkpoint: Checkpoint) -> str | None:
    """The variant whose tensors these are, or nearly; None if there is none."""
    description = checkpoint.header or checkpoint.exported
    if description is not None and description.model in VARIANTS:
        return description.model
    found = identify(checkpoint)
    return None if found is None else found[0]


def identify(checkpoint: Checkpoint) -> tuple[str, Architecture] | None:
    """The variant whose kernels a file has, or nearly, with what the file fixes beside weights; None if there is none.

    Names and order do not count, so that other versions of a repository, and files that lack what only training needs,
    are recognised too. Variants that are called like the file are tried first, and an exact one ends the search.
    """
    if checkpoint.darknet is not None:
        fits = [(row.name, row.architecture) for row in VARIANTS.values() if checkpoint.darknet.fits(row.architecture)]
        exact = [one for one in fits if checkpoint.darknet.fits(one[1], exact=True)]
        return next(iter(exact or fits), None)
    hint = Path(checkpoint.path).stem.lower().replace("_", "-")
    rows = sorted(VARIANTS.values(), key=lambda row: -SequenceMatcher(None, row.name, hint).ratio())
    best, found = _SIMILAR, None
    for row in rows:
        official = read_official(row.architecture, checkpoint)
        if official is None:
            continue
        share = _share(official.architecture, checkpoint, official.tensors)
        if share > best:
            best, found = share, (row.name, official.architecture)
        if share == 1:
            break
    return found


def _share(architecture: Architecture, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> float:
    """The share of kernels that a network (in either form) and a file have in common; class layers do not count."""
    if checkpoint.graph is not None:
        theirs = Counter(one.shape for one in checkpoint.graph.links.values())
    else:
        theirs = Counter(
            tuple(tensor.shape) for name, tensor in tensors.items() if tensor.dim() == 4 and name.endswith("weight")
        )
    return max(_common(form, theirs) for form in _forms(architecture))  # type: ignore[arg-type]  # every one is frozen


@dataclass(frozen=True)
class _Kernels:
    """The kernels of one form of a network by shape, and how many class layers it has beside them."""

    counts: Counter[tuple[int, ...]]
    class_layers: int


def _common(ours: _Kernels, theirs: Counter[tuple[int, ...]]) -> float:
    extra = max((theirs - ours.counts).total() - ours.class_layers, 0)
    return (ours.counts & theirs).total() / (ours.counts.total() + extra)


@lru_cache(maxsize=256)
def _forms(architecture: Any) -> tuple[_Kernels, ...]:
    """The network as files have it: whole, without what only training needs, and with its branches merged, too."""
    with torch.device("meta"):
        detector = architecture.build()
    rows = {f"head.{name}" for name in detector.head.class_rows()}
    modules = list(detector.named_modules())
    extras = tuple(f"{name}." for name, module in modules if isinstance(module, TrainingOnly))
    branches = tuple(f"{name}.point." for name, module in modules if isinstance(module, RepConv))
    layers = [(name, module) for name, module in modules if isinstance(module, nn.Conv2d)]
    found = []
    for gone in ((), extras, extras + branches):
        kept = [(name, module) for name, module in layers if not name.startswith(gone)]
        shapes = [tuple(module.weight.shape) for name, module in kept if f"{name}.weight" not in rows]
        found.append(_Kernels(Counter(shapes), len(kept) - len(shapes)))
    return tuple(found)
