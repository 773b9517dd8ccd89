"""Prints a comparison of models."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.report.comparison import Comparison
from onelook.report.comparison_page import COLUMNS, model_cells


def show_comparison(result: Comparison, console: Console) -> None:
    """Prints the table of models, which of them differ, and where the files are."""
    console.print(f"{result.images} images, {result.objects} objects; {result.facts.get('machine', '')}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in COLUMNS:
        table.add_column(title, justify="left" if title == COLUMNS[0] else "right", no_wrap=title != COLUMNS[0])
    for model in result.models:
        table.add_row(*(Text(cell) for cell in model_cells(model)))
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
