"""Whether a training takes the recipe `small`, and what that is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onelook.data import Dataset
from onelook.data.objects import object_sizes
from onelook.data.order import chosen_rows, class_labels
from onelook.recipes.small import Facts, small
from onelook.training.recipe import Recipe

FEWEST_FINE_TUNING_STEPS = 500  # a few images need more passes than 50 for a head to learn new classes
_PLANNED = ("epochs", "batch_size", "size", "sampling", "seed")  # settings that the facts of a training depend on


def facts_of(recipe: Recipe, training: Dataset, has_weights: bool, knows_classes: bool = False) -> Facts:
    """What the rules of `small` need to know of a training by a recipe, whose epochs, batch and size are decided."""
    rows = chosen_rows(training, recipe.sampling, recipe.seed)
    seen = training if len(rows) == len(training) else training.view(rows)
    sizes = object_sizes(seen, recipe.input_size, class_labels(training.names, recipe.sampling.classes))
    sides = np.sqrt(sizes.prod(1))
    tenth, most = np.quantile(sides, (0.1, 0.9)).tolist() if len(sides) else (0.0, 0.0)
    return Facts(
        images=len(rows),
        epochs=recipe.epochs,
        batch=recipe.batch_size,
        has_weights=has_weights,
        knows_classes=knows_classes,
        sides=(tenth, most) if len(sides) else None,
        objects=len(sides) / max(1, len(rows)),
    )


def planning(overrides: Sequence[str]) -> list[str]:
    """The changes "path=value" that decide how many steps of how many images there are."""
    return [one for one in overrides if _path(one).split(".")[0] in _PLANNED]


def fitted(
    published: Recipe,
    planned: Recipe,
    training: Dataset,
    overrides: Sequence[str],
    *,
    has_weights: bool,
    knows_classes: bool,
    always: bool,
) -> Recipe:
    """`planned`, or the recipe `small` where the training is one for it.

    published: the recipe of the family for these classes and this size.  planned: the same with the epochs and the
    batch of the training, and with the changes that `planning` finds.  overrides: changes "path=value" that are made
    afterwards: what they name stays as published here.  always: take `small` for any training.
    """
    facts = facts_of(planned, training, has_weights, knows_classes)
    if not (always or facts.is_small):
        return planned
    sampled = replace(published, size=planned.size, sampling=planned.sampling, seed=planned.seed)
    first = planning(overrides)
    return small(sampled, facts, keep=[_path(one) for one in overrides if one not in first])


def _path(setting: str) -> str:
    """The path of a setting "path=value"."""
    return setting.partition("=")[0].strip()


def fine_tuning_epochs(usual: int, images: int, batch: int) -> int:
    """The passes of a training with weights that is told no number: more than usual where images are few."""
    return max(usual, -(-FEWEST_FINE_TUNING_STEPS // -(-images // batch)))


def describe_small(
    recipe: Recipe, training: Dataset, name: str, *, has_weights: bool, knows_classes: bool, always: bool
) -> str | None:
    """The line that says that a training takes `small`, and how to train as published; None where it does not."""
    facts = facts_of(recipe, training, has_weights, knows_classes)
    if not (always or facts.is_small):
        return None
    steps = f"{facts.steps:,} step{'s' if facts.steps > 1 else ''} of {facts.batch} images"
    why = ", from weights" if facts.has_weights else ""
    known = " that know all classes" if facts.knows_classes else ""
    other = f"--recipe {name}:published"
    return f"Recipe small, fitted to {facts.images:,} images and {steps}{why}{known}. The other: {other}."
