"""Prints roadmaps and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from onelook.api.roadmap import RoadmapList
    from onelook.recipes.records import PrintedTable
    from onelook.report.roadmap import RoadmapTable


_LONGEST_FIGURE = 24  # characters of a cell; longer ones are text, which is broken into lines


def show_roadmaps(result: RoadmapList, console: Console) -> None:
    """Prints the list of roadmaps."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("roadmap", "source", "rows", "shows"):
        table.add_column(title, justify="right" if title == "rows" else "left")
    for one in result.roadmaps.values():
        table.add_row(one.name, one.source, str(len(one.rows)), one.title)
    console.print(table)
    console.print("\nOther tables, and what texts and releases state: only their figures are here:", style="dim")
    printed = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for record in result.printed.values():
        printed.add_row(record.name, record.source, record.title)
    console.print(printed)


def show_printed(record: PrintedTable, console: Console) -> None:
    """A paper's table as printed."""
    console.print(Text.assemble((f"{record.source}, as printed", "bold"), f": {record.title} ({record.setting})"))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, title in enumerate(record.columns):
        is_text = number == 0 or any(len(row[number]) > _LONGEST_FIGURE for row in record.rows)
        table.add_column(Text(title), justify="left" if is_text else "right", no_wrap=number == 0 or not is_text)
    for row in record.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _show_table(titles: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="left" if title == "row" else "right", no_wrap=title != "row")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print()


def show_roadmap(result: RoadmapTable, console: Console) -> None:
    """Prints the table of a roadmap, what each row changes, and where the files are."""
    console.print(Text(f"{result.source}: {result.title}", style="bold"))
    _show_table(result.columns(), [result.cells(row) for row in result.rows], console)
    if result.more_measures:
        _show_table(result.more_columns(), [result.more_cells(row) for row in result.rows], console)
    if not result.trained:
        for row in result.rows:
            base = f"of {row.base}: " if row.base else ""
            console.print(Text.assemble((row.key, "cyan"), f"  {base}{', '.join(row.change) or 'the starting point'}"))
        console.print()
    for row in result.rows:
        if row.note:
            console.print(Text(f"{row.key}: {row.note}", style="dim"))
    for name, value in result.facts.items():
        console.print(Text(f"{name}: {value}", style="dim"))
    if result.printed is not None:
        console.print()
        show_printed(result.printed, console)
    if result.folder is not None:
        console.print(Text(f"wrote {result.folder / 'table.html'}, .csv, .md and chart.svg, .png"), soft_wrap=True)
