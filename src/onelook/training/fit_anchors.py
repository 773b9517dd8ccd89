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
_JITTER = 0.1  # images are this much smaller or larger at random where the fit is checked, as published
_DRAW = 0xA2C  # keeps these draws apart from others that share the seed


def anchor_recall(recipe: Recipe, dataset: Dataset) -> float | None:
    """The best possible recall of a recipe's anchors: the share of objects whose sides one of them fits.

    None where the assigner does not compare sides, or the model has no anchors.
    """
    ratio, anchors = _ratio(recipe), getattr(recipe.model, "anchors", None)
    if ratio is None or anchors is None:
        return None
    return measure_fit(flat(anchors), _sizes(recipe, dataset), ratio).recall


def with_fitting_anchors(recipe: Recipe, dataset: Dataset) -> tuple[Recipe, str | None]:
    """The recipe with anchors that fit the data set, and a message, where its own fit too few objects.

    `recipe.least_anchor_recall` says what is too few. Anchors are replaced only where others fit more objects. Both
    fits are those of images whose size varies at random by a tenth; the search has them in their own size. The sides
    of the found anchors may be fractions of pixels, which float16 can represent, as the official code stores them.
    """
    least, ratio = recipe.least_anchor_recall, _ratio(recipe)
    if least is None or ratio is None:
        return recipe, None
    rng = np.random.default_rng((recipe.seed, _DRAW))
    varied = _sizes(recipe, dataset, rng.uniform(1 - _JITTER, 1 + _JITTER, len(dataset)))
    present: Anchors = recipe.model.anchors  # type: ignore[attr-defined]
    recall = measure_fit(flat(present), varied, ratio).recall
    if recall >= least:
        return recipe, None
    before = f"The model's anchors fit {recall:.1%} of the objects at this size"
    sizes, count = _sizes(recipe, dataset), len(flat(present))
    try:
        found = search(sizes, count, np.random.default_rng(recipe.seed), whole=False)
    except DataError as error:
        return recipe, f"{before}, and stay: {error.message}"
    anchors = by_level(found.astype(np.float16).astype(float), len(present))
    better = measure_fit(flat(anchors), varied, ratio).recall
    if better <= recall:
        return recipe, f"{before}, and stay: no others were found that fit more."
    shown = ", ".join(f"{w:.1f} x {h:.1f}" for w, h in flat(anchors))
    return change(recipe, {"model.anchors": anchors}), f"{before}; those that replace them, {better:.1%}: {shown}."


def _ratio(recipe: Recipe) -> float | None:
    """The largest ratio of sides of an object and an anchor that the assigner accepts; None where it has none."""
    assigner = getattr(recipe.loss, "assigner", None)
    return getattr(getattr(assigner, "cells", assigner), "ratio", None)


def _sizes(recipe: Recipe, dataset: Dataset, factors: np.ndarray | None = None) -> np.ndarray:
    labels = class_labels(dataset.names, recipe.sampling.classes)
    return object_sizes(dataset, recipe.input_size, labels, factors)
