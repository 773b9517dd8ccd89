"""Prints streaming AP."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.report.streaming import COLUMNS, Streaming, cells

_TIMES = COLUMNS.index("AP")


def show_streaming(result: Streaming, console: Console) -> None:
    """Prints the tables of models, the recommendation, and where the files are."""
    videos = f"{result.sequences} sequence{'s' * (result.sequences != 1)}"
    console.print(f"{result.frames} frames in {videos}, {result.fps:g} frames a second", markup=False)
    for name, text in result.facts.items():
        console.print(Text(f"{name}: {text}", style="dim"))
    console.print()
    best = result.best
    # Two tables: one would be wider than a terminal of 80 columns, and lose figures.
    for columns in ((0, 1, *range(2, _TIMES)), (0, 1, *range(_TIMES, len(COLUMNS)))):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(COLUMNS[column], justify="right" if column > 1 else "left", no_wrap=column > 0)
        for model in result.models:
            row = cells(model)
            table.add_row(*(Text(row[column], style="bold" if model is best else "") for column in columns))
        console.print(table)
        console.print()
    console.print(Text(result.recommendation()), soft_wrap=True)
    console.print(
        Text(
            "AP: of every frame's own detections. ms: mean run time. age: of the shown outputs, in frames, on average.",
            style="dim",
        )
    )
    for note in result.notes:
        console.print(Text(f"Note: {note}", style="yellow"))
    if result.written:
        first, *others = result.written
        names = ", ".join(path.relative_to(first.parent).as_posix() for path in others)
        console.print(Text(f"wrote {first}, {names}"), soft_wrap=True)
