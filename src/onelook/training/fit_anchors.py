"""How well a recipe's anchors fit the objects of a training set, and better ones (YOLOv7's autoanchor)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onelook.config import change
from onelook.data import Dataset
from onelook.data.anchors import Anchors, by_level, flat, measure_fit, search
from onelook.data.objects import object_sizes
from onelook.data.order import class_labels
from onelook.errors import DataError

if TYPE_CHECKING:
    from onelook.training.recipe import Recipe

MIN_ANCHOR_RECALL = 0.98  # share of objects that anchors must fit, as published


def anchor_recall(recipe: Recipe, dataset: Dataset, anchors: Anchors | None = None) -> float | None:
    """The best possible recall of a recipe's anchors, or of others: the share of objects whose sides one of them fits.

    None where the assigner does not compare sides, or the model has no anchors.
    """
    assigner = getattr(recipe.loss, "assigner", None)
    ratio = getattr(getattr(assigner, "cells", assigner), "ratio", None)
    anchors = getattr(recipe.model, "anchors", None) if anchors is None else anchors
    if ratio is None or anchors is None:
        return None
    return measure_fit(flat(anchors), _sizes(recipe, dataset), ratio).recall


def with_fitting_anchors(recipe: Recipe, dataset: Dataset) -> tuple[Recipe, str | None]:
    """The recipe with anchors that fit the data set, and a message, where its own fit too few objects.

    `recipe.least_anchor_recall` says what is too few. Anchors are replaced only where others fit more objects.
    """
    least = recipe.least_anchor_recall
    recall = None if least is None else anchor_recall(recipe, dataset)
    if least is None or recall is None or recall >= least:
        return recipe, None
    present: Anchors = recipe.model.anchors  # type: ignore[attr-defined]
    before = f"The model's anchors fit {recall:.1%} of the objects at this size"
    sizes, count = _sizes(recipe, dataset), len(flat(present))
    try:
        found = by_level(search(sizes, count, np.random.default_rng(recipe.seed)), len(present))
    except DataError as error:
        return recipe, f"{before}, and stay: {error.message}"
    better = anchor_recall(recipe, dataset, found)
    assert better is not None
    if better <= recall:
        return recipe, f"{before}, and stay: no others were found that fit more."
    whole = tuple(tuple((int(w), int(h)) for w, h in level) for level in found)
    return change(recipe, {"model.anchors": whole}), f"{before}; those that replace them, {better:.1%}: {whole}."


def _sizes(recipe: Recipe, dataset: Dataset) -> np.ndarray:
    labels = class_labels(dataset.names, recipe.sampling.classes)
    return object_sizes(dataset, recipe.input_size, labels)
