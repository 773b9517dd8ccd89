"""Prints the result of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from onelook.api.tune import TuneResult


def show_search(result: TuneResult, console: Console) -> None:
    """Prints the trials, best first, and where the best recipe is."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", result.metric, "seconds", *list(result.rows[0] if result.rows else {})[4:]):
        table.add_column(name, justify="right")
    for row in sorted(result.rows, key=lambda row: (row["fitness"] is None, -(row["fitness"] or 0), row["trial"])):
        fitness = row["status"] if row["fitness"] is None else f"{row['fitness']:.4f}"
        style = "bold" if row["trial"] == result.best else None
        rest = (f"{value:.5g}" for value in list(row.values())[4:])
        table.add_row(str(row["trial"]), fitness, f"{row['seconds']:.0f}", *rest, style=style)
    console.print(table)
    if result.interrupted:
        console.print(f"Stopped. To resume: {result.resume_command}", soft_wrap=True, markup=False)
    if result.recipe is not None:
        console.print(f"The best recipe: {result.recipe}", soft_wrap=True, markup=False)
