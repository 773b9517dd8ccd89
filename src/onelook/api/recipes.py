"""`onelook.recipe`: published trainings by name, and recipes from files."""

from __future__ import annotations

import os

from onelook.api.open import PathLike
from onelook.config import check_arguments
from onelook.recipes import find_recipe
from onelook.training.recipe import Recipe


def recipe(name: PathLike) -> Recipe:
    """A complete training as a value.

    name: a model's name (its published training), a recipe file, or the folder of a run.

    Change it with `onelook.change` or `onelook.override`. ConfigError for names and files that are no recipe.
    """
    check_arguments(recipe, locals())
    return find_recipe(os.fspath(name))
