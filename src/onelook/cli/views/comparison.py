"""Prints a comparison of models."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.report.comparison import Comparison
from onelook.report.comparison_page import COLUMNS, STREAMING_COLUMNS, model_cells, streaming_cells

_COSTS = COLUMNS.index("images/s") + 1  # the columns from here on are costs, in a table of their own


def show_comparison(result: Comparison, console: Console) -> None:
    """Prints the table of models, which of them differ, and where the files are."""
    console.print(f"{result.images} images, {result.objects} objects; {result.facts.get('machine', '')}", markup=False)
    cells = [model_cells(model) for model in result.models]
    # Two tables: one would be wider than a terminal of 80 columns, and lose figures.
    for columns in (range(_COSTS), (0, *range(_COSTS, len(COLUMNS)))):
        _print_table(console, [COLUMNS[column] for column in columns], [[row[c] for c in columns] for row in cells])
    streamed = [streaming_cells(model) for model in result.models if model.streaming]
    if streamed:
        _print_table(console, STREAMING_COLUMNS, streamed)
    for pair, words in zip(result.pairs, result.sentences()):
        differs = pair.ap is not None and pair.ap.is_significant
        console.print(Text(words, style="bold" if differs else ""))
    for note in (*result.notes, *(f"{model.name}: {note}" for model in result.models for note in model.notes)):
        console.print(Text(f"Note: {note}", style="yellow"))
    if result.written:
        page, *others = result.written
        console.print(Text(f"wrote {page}, {', '.join(path.name for path in others)}"), soft_wrap=True)


def _print_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, title in enumerate(head):
        table.add_column(title, justify="right" if place else "left", no_wrap=place > 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print()
