"""Prints the result of a training."""

from __future__ import annotations

from rich.console import Console

from onelook.training.result import RunResult


def show_training(result: RunResult, console: Console) -> None:
    """Prints the time of the training, its best metric, and where its weights are."""
    console.print(str(result), soft_wrap=True, markup=False)
