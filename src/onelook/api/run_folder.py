"""The folder of a run: the one that is named, or the next free one in runs/."""

from __future__ import annotations

import os
from pathlib import Path

from onelook.api.open import PathLike
from onelook.api.recipe_choice import RecipeChoice, recipe_name
from onelook.errors import UsageError
from onelook.files import free_folder
from onelook.training.recipe import Recipe


def run_name(choice: Recipe | RecipeChoice) -> str | None:
    """The name for a run's folder: that of the model, or of the recipe."""
    return choice.name if isinstance(choice, RecipeChoice) else recipe_name(choice)


def run_folder(out: PathLike | None, resume: bool, name: str | None) -> Path:
    """The folder of a run. Raises UsageError where a run is resumed and no folder is named."""
    if out is not None and not os.fspath(out).strip():
        raise UsageError("out names no folder.", "Give a path, or leave it away: a folder in runs/ is taken then.")
    if out is not None:
        return Path(out)
    if resume:
        raise UsageError("To resume, the folder of the run is needed.", "Give the folder that was printed (out).")
    return free_folder(Path("runs") / Path(name or "run").stem)
