"""Chooses the recipe of a training: the published one of a model, or another one, with changes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from onelook import run_files
from onelook.api.open import PathLike
from onelook.api.small_choice import describe_small, fine_tuning_epochs, fitted, planning
from onelook.config import change, from_plain, override, to_plain, to_text
from onelook.data import Dataset
from onelook.errors import ConfigError, UsageError, UserError
from onelook.networks.build import build
from onelook.networks.classifier import Classification
from onelook.networks.detector import Detector
from onelook.networks.model_file import is_model_file
from onelook.networks.variants import VARIANTS, variant
from onelook.recipes import RECIPE_TYPES, SMALL, default_recipe, find_recipe
from onelook.recipes.classifier import published_classifier
from onelook.training.checkpoint import latest_weights_hint
from onelook.training.distillation import Distillation
from onelook.training.options import options_of_run
from onelook.training.recipe import Recipe, adapted, batch_settings
from onelook.training.same_recipe import check_same_recipe
from onelook.weights import load_weights
from onelook.weights.identify import model_name

FINE_TUNING_EPOCHS = 50  # of a training that begins with weights, unless other epochs are given
CPU_BATCH = 16  # the published 64 images fill the memory of most computers without an accelerator


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """A recipe and changes of it: the options `--model`, `--recipe`, `--epochs` and so on of `onelook train`.

    Only needed to train a model by the recipe of another, or with `overrides` as text: `onelook.train` itself takes a
    name or a `Recipe`, and `epochs`, `size` and `batch`.

    model: name of a model, or a file of one that `onelook.search` wrote; its published training is taken unless
    `recipe` names another, and fitted to the data (`onelook.recipes.small`) where the training starts from weights or
    has few steps.  recipe: a name, NAME:small, a recipe.yaml, the folder of a run, or a value; with `model`, that model
    is trained by it.  epochs: None is 50 with weights (more where these would be under 500 steps), else as published.
    size: side of the input in pixels.  batch: images a step; None is as published, but 16 on a CPU; "auto" fills the
    memory of a GPU.  overrides: changes of the recipe, each "path=value"; they are made last.
    """

    model: str | None = None
    recipe: Recipe | str | None = None
    epochs: int | None = None
    size: int | None = None
    batch: int | Literal["auto"] | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """The name for a run's folder."""
        if self.model is not None:
            return variant(self.model).name if is_model_file(self.model) else self.model
        return recipe_name(self.recipe) if isinstance(self.recipe, Recipe) else self.recipe

    @property
    def images(self) -> int | None:
        """The batch where it is a number."""
        return None if self.batch == "auto" else self.batch

    def resolve(
        self,
        names: tuple[str, ...],
        *,
        has_weights: bool = False,
        knows_classes: bool = False,
        has_teacher: bool = False,
        on_cpu: bool = False,
        is_classification: bool = False,
        training: Dataset | None = None,
    ) -> Recipe:
        """Makes the recipe, for these classes.

        has_weights: whether the training starts from weights.  knows_classes: whether these were trained on all of its
        classes (see `knows_classes`).  has_teacher: whether there is a teacher.
        is_classification: whether the data set is one of class folders.  training: the images, which the recipe is
        fitted to where it is `small`; without them it is the published one.

        Raises UserError for names and values that cannot be used.
        """
        chosen = self._base(has_teacher, is_classification)
        if has_teacher and "image classes" in chosen.model.provides:
            raise UsageError("A classifier of images has no teacher.", "Leave the teacher away, or train a detector.")
        if has_teacher and chosen.distillation is None and not isinstance(self.recipe, Recipe):
            chosen = replace(chosen, distillation=Distillation())
        epochs, images = self.epochs, self.images
        if self.recipe is None or self.asks_for_small:
            images = CPU_BATCH if images is None and on_cpu else images
            if epochs is None and has_weights:
                count = 0 if training is None or is_classification else len(training)
                epochs = fine_tuning_epochs(FINE_TUNING_EPOCHS, count or 10**6, images or chosen.batch_size)
        found = adapted(chosen, names, epochs, self.size, images)
        if training is not None and self.may_be_small(found):
            planned = overridden(found, planning(self.overrides), **self._counts)
            base, always = adapted(chosen, names, None, self.size, None), self.asks_for_small
            found = fitted(
                base,
                planned,
                training,
                self.overrides,
                has_weights=has_weights,
                knows_classes=knows_classes,
                always=always,
            )
        found = overridden(found, self.overrides, **self._counts)
        check_start(found, has_weights)
        return found

    @property
    def _counts(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "size": self.size, "batch": self.batch}

    @property
    def asks_for_small(self) -> bool:
        """Whether the recipe is NAME:small."""
        return isinstance(self.recipe, str) and self.recipe.partition(":")[0::2] in {(name, SMALL) for name in VARIANTS}

    def may_be_small(self, recipe: Recipe) -> bool:
        """Whether the recipe is a family's own, and trains a detector."""
        return (self.recipe is None or self.asks_for_small) and "image classes" not in recipe.model.provides

    def says_small(
        self, recipe: Recipe, training: Dataset, has_weights: bool, knows_classes: bool = False
    ) -> str | None:
        """The line that says that `resolve` has made `recipe` the recipe `small`; None where it has not."""
        if not self.may_be_small(recipe):
            return None
        name = recipe_name(recipe) or (self.model or "NAME")
        return describe_small(
            recipe,
            training,
            name,
            has_weights=has_weights,
            knows_classes=knows_classes,
            always=self.asks_for_small,
        )

    def _base(self, has_teacher: bool, is_classification: bool) -> Recipe:
        """The named recipe before the other changes."""
        if self.model is None and self.recipe is None:
            raise UsageError(
                "The model is missing.", "Give one: --model yolox-s (in Python: recipe), or see: onelook models"
            )
        check_model_name(self.model)
        if self.recipe is None or self.asks_for_small:
            model = variant(self.model or str(self.recipe).partition(":")[0])
            if is_classification:
                return published_classifier(model)
            recipe = default_recipe(model.like or model.name, distilled=has_teacher)
            return recipe if model.like is None else change(recipe, {"model": model.architecture})
        if isinstance(self.recipe, str) and self.recipe in VARIANTS:
            chosen = default_recipe(self.recipe, distilled=has_teacher)
        else:
            chosen = self.recipe if isinstance(self.recipe, Recipe) else find_recipe(self.recipe)
        return chosen if self.model is None else change(chosen, {_network(chosen): variant(self.model).architecture})

    def resumed(self, folder: Path, data: str = "DATA") -> Recipe:
        """The recipe of the run in a folder; UserError where this choice would change it."""
        before = recipe_of_run(folder)
        if isinstance(self.recipe, Recipe):
            names = tuple(map(str, range(before.model.num_classes)))
            return resumed(adapted(self.recipe, names, self.epochs, self.size, self.images), folder, data)
        if self.recipe is not None and self.recipe != options_of_run(folder).get("recipe"):
            raise UsageError(
                "A resumed run keeps its own recipe.",
                "Leave the recipe away, or start a new run in another folder (out).",
            )
        check_model_name(self.model)
        new: dict[str, Any] = {} if self.model is None else {_network(before): variant(self.model).architecture}
        if self.images is not None:
            new |= batch_settings(before, self.images)
        if self.size is not None and before.input_size != (self.size, self.size):
            new["size"] = (self.size, self.size)
        try:
            wanted = change(change(before, new), {"model.num_classes": before.model.num_classes})
            wanted = override(_with_anchors_of(before, wanted), *self.overrides, types=RECIPE_TYPES)
        except ConfigError as error:  # its remedy would be another change
            remedy = (
                "A resumed run keeps its recipe: leave the change away, or start a new run in another folder (out)."
            )
            raise type(error)(error.message, remedy) from error
        check_same_recipe(folder, before, wanted, self.epochs, data)
        return before


def given_recipe(choice: Recipe | RecipeChoice) -> str | None:
    """The recipe's name or path that a training was asked for; a resumed run takes that one, and no other."""
    return choice.recipe if isinstance(choice, RecipeChoice) and isinstance(choice.recipe, str) else None


def recipe_name(recipe: Recipe) -> str | None:
    """The name of the model that a recipe trains; None for a changed model."""
    found = model_name(recipe.model)
    return found if found in VARIANTS else None


def _network(recipe: Recipe) -> str:
    """The path of the network in a recipe."""
    return "model.network" if isinstance(recipe.model, Classification) else "model"


def overridden(
    recipe: Recipe, overrides: Sequence[str], *, epochs: int | None, size: int | None, batch: int | str | None
) -> Recipe:
    """The recipe with changes of the form "path=value".

    epochs, size, batch: the options that the recipe was adapted to; UsageError for a change that contradicts one.
    """
    found = override(recipe, *overrides, types=RECIPE_TYPES)
    for name, path, option in (("epochs", "epochs", epochs), ("size", "size", size), ("batch", "batch_size", batch)):
        before, after = getattr(recipe, path), getattr(found, path)
        if option is not None and before != after:
            raise UsageError(
                f"--{name} {option} and {path}={to_text(after)} contradict each other.",
                f"Leave one of them away (in Python: {name}={option!r} or the override).",
            )
    return found


def named_choice(
    recipe: Recipe | RecipeChoice | PathLike | None,
    *,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
) -> Recipe | RecipeChoice:
    """The recipe, or the choice that a text means: the name of a model, a file, or a run's folder; None is none.

    epochs, size, batch: changes of it; UsageError where the choice has another value already.
    """
    known = (("epochs", epochs), ("size", size), ("batch", batch))
    given: dict[str, Any] = {name: value for name, value in known if value is not None}
    if isinstance(recipe, Recipe) and not given:
        return recipe
    if isinstance(recipe, RecipeChoice):
        choice = recipe
    elif isinstance(recipe, str | os.PathLike) and (recipe in VARIANTS or is_model_file(recipe)):
        choice = RecipeChoice(model=os.fspath(recipe))
    else:
        choice = RecipeChoice(recipe=os.fspath(recipe) if isinstance(recipe, os.PathLike) else recipe)
    for name, value in given.items():
        if getattr(choice, name) not in (None, value):
            raise UsageError(f"'{name}' is {value!r}, and {getattr(choice, name)!r} in the RecipeChoice.", "Give one.")
    return replace(choice, **given)


def knows_classes(choice: Recipe | RecipeChoice, training: Dataset, weights: str | Detector | None) -> bool:
    """Whether weights to start from were trained on all classes of the images, where the recipe `small` asks that."""
    if weights is None or not isinstance(choice, RecipeChoice) or not training.has_boxes:
        return False
    published = choice.resolve(training.names, has_weights=True)
    if not choice.may_be_small(published):
        return False
    if isinstance(weights, Detector):
        return set(training.names) <= set(weights.class_names)
    return not load_weights(build(published.model, training.names), weights).new_classes


def resolved(
    choice: Recipe | RecipeChoice,
    training: Dataset,
    *,
    has_weights: bool,
    on_cpu: bool,
    knows_classes: bool = False,
    has_teacher: bool = False,
) -> Recipe:
    """The recipe for the classes of a data set; a `Recipe` is otherwise taken as it is. See `RecipeChoice.resolve`."""
    if isinstance(choice, RecipeChoice):
        return choice.resolve(
            training.names,
            has_weights=has_weights,
            knows_classes=knows_classes,
            has_teacher=has_teacher,
            is_classification=not training.has_boxes,
            on_cpu=on_cpu,
            training=training,
        )
    found = change(choice, {"model.num_classes": len(training.names)})
    check_start(found, has_weights)
    return found


def resumed(choice: Recipe | RecipeChoice, folder: Path, data: str = "DATA") -> Recipe:
    """The recipe of the run in a folder; UserError where the chosen one differs from it, class count aside.

    data: of the run, for the command that an error recommends.
    """
    if isinstance(choice, RecipeChoice):
        return choice.resumed(folder, data)
    before = recipe_of_run(folder)
    wanted = _with_anchors_of(before, change(choice, {"model.num_classes": before.model.num_classes}))
    # As the file holds it: a whole number may be a float there.
    check_same_recipe(folder, before, from_plain(to_plain(wanted), RECIPE_TYPES), data=data)
    return before


def _with_anchors_of(before: Recipe, wanted: Recipe) -> Recipe:
    """`wanted` with the anchors of a run that may have replaced its own at its start."""
    if before.least_anchor_recall is None or not hasattr(wanted.model, "anchors"):
        return wanted
    return change(wanted, {"model.anchors": getattr(before.model, "anchors")})  # noqa: B009


def check_start(recipe: Recipe, has_weights: bool) -> None:
    """UsageError for a recipe that continues the training of a classifier, without that classifier's weights."""
    if recipe.pretraining is not None and not has_weights:
        raise UsageError(
            "The recipe begins with a backbone that was trained as a classifier.",
            "Give that classifier as weights, or pretraining=none.",
        )


def check_model_name(model: str | None) -> None:
    """UsageError for a --model that is a recipe, a run's folder or a file: a training has other flags for those."""
    if model is None or model in VARIANTS or is_model_file(model):
        return
    if not Path(model).exists():
        if ":" in model:
            find_recipe(model)  # has its own message for an unknown one
            raise UsageError(
                f"'{model}' is a recipe, and --model is the name of a model.",
                f"To train its model by it: --recipe {shlex.quote(model)}.",
            )
        return
    place, best = Path(model), Path(model) / run_files.BEST_WEIGHTS
    with_weights = "To begin with its weights: --model NAME --weights {}"
    if (place / run_files.RECIPE).is_file():
        remedy = f"To train as it did: --recipe {shlex.quote(model)}."
        if best.is_file():
            remedy += f" {with_weights.format(shlex.quote(str(best)))}."
        raise UsageError(f"'{model}' is the folder of a run, and --model is the name of a model.", remedy)
    if place.is_file():
        yaml = place.suffix in (".yaml", ".yml", ".json")
        remedy = "If it holds a recipe: --recipe {}" if yaml else with_weights
        remedy = f"{remedy.format(shlex.quote(model))}."
        raise UsageError(f"'{model}' is a file, and --model is the name of a model.", remedy)


def recipe_of_run(folder: Path) -> Recipe:
    """The recipe of the run in a folder; UserError where there is no run."""
    if (folder / run_files.RECIPE).is_file():
        return find_recipe(folder)
    if (folder / run_files.CHECKPOINT).is_file():
        raise UserError(
            f"The run in '{folder}' has lost its {run_files.RECIPE}, without which it cannot be resumed.",
            f"Put that file back, or start another run in another folder (out){latest_weights_hint(folder)}.",
        )
    raise UserError(f"There is no run in '{folder}' to resume.", "Start the training without resume.")
