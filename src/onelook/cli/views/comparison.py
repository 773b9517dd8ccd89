"""Prints a comparison of models."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.report.comparison import Comparison
from onelook.report.comparison_page import COLUMNS, model_cells

_COSTS = COLUMNS.index("images/s") + 1  # the columns from here on are costs, in a table of their own


def show_comparison(result: Comparison, console: Console) -> None:
    """Prints the table of models, which of them differ, and where the files are."""
    console.print(f"{result.images} images, {result.objects} objects; {result.facts.get('machine', '')}", markup=False)
    cells = [model_cells(model) for model in result.models]
    # Two tables: one would be wider than a terminal of 80 columns, and lose figures.
    for columns in (range(_COSTS), (0, *range(_COSTS, len(COLUMNS)))):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(COLUMNS[column], justify="right" if column else "left", no_wrap=column > 0)
        for row in cells:
            table.add_row(*(Text(row[column]) for column in columns))
        console.print(table)
        console.print()
    for pair, words in zip(result.pairs, result.sentences()):
        differs = pair.ap is not None and pair.ap.is_significant
        console.print(Text(words, style="bold" if differs else ""))
    for note in (*result.notes, *(f"{model.name}: {note}" for model in result.models for note in model.notes)):
        console.print(Text(f"Note: {note}", style="yellow"))
    if result.written:
        page, *others = result.written
        console.print(Text(f"wrote {page}, {', '.join(path.name for path in others)}"), soft_wrap=True)
