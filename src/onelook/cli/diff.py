"""`onelook diff`: what one training changes against another."""

from __future__ import annotations

from typing import Any

from onelook.cli.command_result import CommandResult
from onelook.cli.views.diff import show_diff


def diff(before: str, after: str, /) -> CommandResult[Any]:
    """List the settings in which two recipes differ.

    A recipe is the name of a model (its published training), a recipe.yaml, or the folder of a run. Every line is a
    setting that `onelook train` takes as path=value.

    Examples:
        onelook diff yolox-s runs/mine
        onelook diff runs/a/recipe.yaml runs/b/recipe.yaml --json changes.json

    Args:
        before: The recipe to compare with.
        after: The recipe whose changes are shown.
    """
    from onelook.api.diff import diff as differences

    return CommandResult(differences(before, after), show_diff)
