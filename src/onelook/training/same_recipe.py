"""Compares the recipe of a resumed run with the one that it was started with."""

from __future__ import annotations

import shlex
from pathlib import Path

from onelook import run_files
from onelook.config import Difference, diff
from onelook.errors import UserError
from onelook.files import free_folder
from onelook.training.recipe import Recipe


def check_same_recipe(
    folder: Path, before: Recipe, recipe: Recipe, epochs: int | None = None, data: str = "DATA"
) -> None:
    """UserError if a run that is resumed was started with another recipe; the message lists what differs.

    epochs: a number of epochs that is asked for beside `recipe`, which need not be able to have it (its closing phase
    may be longer); None is that of `recipe`.  data: of the run, for the command that trains on.
    """
    changes = diff(before, recipe)
    if epochs not in (None, before.epochs):
        others = [one for one in changes if one.path != "epochs"]
        changes = [Difference("epochs", before.epochs, epochs), *others]
    if changes:
        listed = ", ".join(f"{one.path} was {one.before}, now {one.after}" for one in changes[:5])
        remedy = "Resume without changing the recipe, or start a new run in another folder (out)."
        if any(one.path == "epochs" for one in changes):
            remedy += f" {_train_on(folder, before.epochs, recipe.epochs if epochs is None else epochs, data)}"
        raise UserError(f"The run in '{folder}' has another recipe: {listed}.", remedy)


def _train_on(folder: Path, before: int, wanted: int, data: str) -> str:
    """The command that trains the last weights of a run for more epochs: those that are wanted beyond its own."""
    more = wanted - before if wanted > before else wanted
    place, weights, new = (
        shlex.quote(str(one)) for one in (folder, folder / run_files.LAST_WEIGHTS, free_folder(f"{folder}-more"))
    )
    return (
        f"A schedule cannot be made longer when it has ended; to train the last weights for {more} more, in a new run: "
        f"onelook train {data} --recipe {place} --weights {weights} --epochs {more} --out {new}"
    )
