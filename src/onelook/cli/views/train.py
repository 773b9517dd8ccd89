"""How the result of a training is shown on a terminal."""

from __future__ import annotations

from rich.console import Console

from onelook.training.result import RunResult


def show_training(result: RunResult, console: Console) -> None:
    """How long the training took, how good it became, and where its weights are."""
    console.print(str(result), soft_wrap=True, markup=False)
