"""Prints the results of dividing and editing data sets."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onelook.data.editing import EditResult
from onelook.data.splitting import SplitResult

_SHOWN_CLASSES = 30
_SHOWN_PROBLEMS = 5


def show_split(result: SplitResult, console: Console) -> None:
    """Prints the counts of each split, by class, and what stays together."""
    console.print(f"{escape(result.source)} divided in [bold]{escape(result.out)}[/]", soft_wrap=True)
    _show_counts(result.splits, result.classes, console)
    for kind, count in result.groups.items():
        console.print(escape(f"  kept on one side: {count} images that are {_KINDS[kind]}"))
    _show_notes(result.notes, console)


_KINDS = {
    "near-duplicates": "near-duplicates of others",
    "sequences": "parts of a sequence",
    "copies": "augmented copies of one image",
}


def show_edit(result: EditResult, console: Console) -> None:
    """Prints the counts of each split, by class, and what was left out."""
    sources = ", ".join(result.sources)
    console.print(f"[bold]{escape(result.out)}[/], from {escape(sources)}", soft_wrap=True)
    _show_counts(result.splits, result.classes, console)
    for problem in result.left_out[:_SHOWN_PROBLEMS]:
        console.print(f"[yellow]left out[/] {escape(f'{problem.place}: {problem.message}')}", soft_wrap=True)
    if result.left_out_file is not None:
        console.print(
            f"{len(result.left_out)} left out; all are listed in {escape(result.left_out_file)}", soft_wrap=True
        )
    _show_notes(result.notes, console)


def _show_counts(
    splits: Mapping[str, Mapping[str, int]], classes: Mapping[str, Mapping[str, int]], console: Console
) -> None:
    table = Table("", box=None, pad_edge=False, header_style="bold")
    for name in splits:
        table.add_column(escape(name), justify="right")
    for what in ("images", "boxes"):
        table.add_row(what, *(str(counts[what]) for counts in splits.values()))
    for name, counts in list(classes.items())[:_SHOWN_CLASSES]:
        table.add_row(escape(f"  {name}"), *(str(counts[split]) for split in splits))
    console.print(table)
    if len(classes) > _SHOWN_CLASSES:
        console.print(f"  ... and {len(classes) - _SHOWN_CLASSES} more classes (--json has them)")


def _show_notes(notes: tuple[str, ...], console: Console) -> None:
    for note in notes:
        console.print(escape(f"note: {note}"), soft_wrap=True)
