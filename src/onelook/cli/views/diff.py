"""Prints the differences of two recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.config import to_text

if TYPE_CHECKING:
    from onelook.api.diff import RecipeDiff


def show_diff(diff: RecipeDiff, console: Console) -> None:
    """Prints a table of the differences, as `path=value` text."""
    if not diff.differences:
        console.print("The two recipes are the same.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("setting", diff.first, diff.second):
        table.add_column(Text(title), overflow="fold")
    for one in diff.differences:
        table.add_row(Text(one.path, style="cyan"), _side(one.before, one.after), _side(one.after, one.before))
    console.print(table)
    count = len(diff.differences)
    console.print(Text(f"{count} setting{'s differ' if count > 1 else ' differs'}.", style="dim"))


def _side(value: Any, other: Any) -> Text:
    """Formats one side of a difference; of two lists, common items are left out."""
    if isinstance(value, tuple) and isinstance(other, tuple) and any(item in other for item in value):
        own = [to_text(item) for item in value if item not in other]
        return Text(", ".join(["...", *own]))
    return Text(to_text(value))
