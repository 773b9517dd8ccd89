"""What a training starts from and is trained on, as the weights that it writes record it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from onelook.data import Dataset
from onelook.data.order import classes_of_objects
from onelook.errors import WeightsError
from onelook.networks.detector import Detector
from onelook.networks.variants import VARIANTS
from onelook.training.teacher import IN_MEMORY
from onelook.weights import read_header

_MOST_GENERATIONS = 10  # of weights that were trained from others, which were trained from others


def initial_weights(weights: str | os.PathLike[str] | Detector | None, model: str) -> list[dict[str, Any]]:
    """Where the first weights of a training come from: the file, and what that was trained from, newest first.

    model: name of the model that is trained.  Each has "file" (its name), "model", and "licence": that of the official
    weights where the file has their name, else None. [] for random weights.
    """
    if weights is None:
        return []
    if isinstance(weights, Detector):
        return [{"file": IN_MEMORY, "model": None, "licence": None}]
    name = Path(weights).name
    try:
        header = read_header(weights)
    except WeightsError:  # no file of ours
        row = VARIANTS.get(model)
        official = row is not None and name in (row.weights_file, (row.backbone or "").rpartition("/")[2])
        return [{"file": name, "model": model, "licence": row.licence if row is not None and official else None}]
    before = (header.trained or {}).get("initial")
    older = [_known(one) for one in before if isinstance(one, dict)] if isinstance(before, list) else []
    return [{"file": name, "model": None, "licence": None}, *older][:_MOST_GENERATIONS]


def _known(entry: dict[Any, Any]) -> dict[str, Any]:
    """The entry of a file that others may have written, as text."""
    texts = {key: entry.get(key) for key in ("file", "model", "licence")}
    texts = {key: text[:200] if isinstance(text, str) else None for key, text in texts.items()}
    return {**texts, "file": texts["file"] or "?"}


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """The name of a data set, its format, and how many objects of each class are in the split."""
    labels = classes_of_objects(dataset)[1]
    counts = np.bincount(labels[labels >= 0], minlength=len(dataset.names)).tolist()
    return {
        "name": dataset.described_by.name,
        "format": dataset.format_title,
        "objects": dict(zip(dataset.names, counts)),
    }
