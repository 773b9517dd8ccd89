"""Prints the trials of a tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from onelook.api.tune import TuneResult


def show_tuning(result: TuneResult, console: Console) -> None:
    """Prints the trials, best first, and where the best recipe is."""
    rows = sorted(result.rows, key=lambda row: (row["fitness"] is None, -(row["fitness"] or 0), row["trial"]))
    columns = {
        "trial": [str(row["trial"]) for row in rows],
        result.metric: [row["status"] if row["fitness"] is None else f"{row['fitness']:.4f}" for row in rows],
        "seconds": [f"{row['seconds']:.0f}" for row in rows],
    }
    settings = list(rows[0])[4:] if rows else []
    columns |= {name: [f"{row[name]:.5g}" for row in rows] for name in settings}
    for names in _fitting(columns, console.width):
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in names:
            table.add_column(Text(_heading(name)), justify="right", no_wrap=True, overflow="fold")
        for place, row in enumerate(rows):
            style = "bold" if row["trial"] == result.best else None
            table.add_row(*(columns[name][place] for name in names), style=style)
        console.print(table)
    for line in result.comparison:
        console.print(line, soft_wrap=True, markup=False)
    if result.interrupted:
        console.print(f"Stopped. To resume: {result.resume_command}", soft_wrap=True, markup=False)
    if result.recipe is not None:
        beaten = result.verdict is None or result.verdict.beats
        name = "The best recipe" if beaten else "The best trial's recipe"
        console.print(f"{name}: {result.recipe}", soft_wrap=True, markup=False)


def _heading(name: str) -> str:
    """The name of a setting, a line for each of its parts."""
    return name.replace(".", ".\n")


def _fitting(columns: Mapping[str, Sequence[str]], width: int) -> Iterator[list[str]]:
    """The columns, in as many tables as are needed for whole headings; each begins with the trial."""
    names: list[str] = []
    used = 0
    for name, cells in columns.items():
        wide = 2 + max(map(len, [*_heading(name).split("\n"), *cells]))
        if len(names) > 1 and used + wide > width:
            yield names
            names = ["trial"]
            used = 2 + len("trial")
        names.append(name)
        used += wide
    yield names
