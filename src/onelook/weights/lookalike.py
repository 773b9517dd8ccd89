"""Which known model a file's tensors belong to, for messages and headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from onelook.models.detector import Architecture
from onelook.models.variants import VARIANTS
from onelook.weights.checkpoint import Checkpoint

_SIMILAR = 0.9  # of all kernels; neighbours in a table share less than half, other class counts cost a few per cent


def model_name(architecture: Architecture) -> str:
    """The variant that this is, of any class count and input size; else the name of the architecture's type."""
    for row in VARIANTS.values():
        if type(row.architecture) is type(architecture):
            same: Any = {"num_classes": architecture.num_classes, "size": architecture.size}
            if replace(cast(Any, row.architecture), **same) == architecture:
                return row.name
    return type(architecture).__name__


def lookalike(checkpoint: Checkpoint) -> str | None:
    """The variant whose tensors these are, or nearly; None if there is none."""
    said = checkpoint.header or checkpoint.exported
    if said is not None and said.model in VARIANTS:
        return said.model
    if checkpoint.graph is not None:
        theirs = Counter(one.shape for one in checkpoint.graph.links.values())
    else:
        theirs = _kernels(checkpoint.tensors)
    if checkpoint.numbers is not None:
        fits = (name for name, row in VARIANTS.items() if checkpoint.numbers.fits(row.architecture))
        return next(fits, None)
    best, found = _SIMILAR, None
    for row in VARIANTS.values():
        with torch.device("meta"):
            ours = _kernels(row.architecture.build().state_dict())
        share = (ours & theirs).total() / (ours | theirs).total()
        if share > best:
            best, found = share, row.name
    return found


def _kernels(tensors: Mapping[str, Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tensor.shape) for tensor in tensors.values() if tensor.dim() == 4)
