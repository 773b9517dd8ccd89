"""Prints the result of a conversion."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from onelook.data.convert import Conversion


def show_conversion(conversion: Conversion, console: Console) -> None:
    """Prints the counts of each split, then what the format could not hold."""
    console.print(
        f"{conversion.format_title} data set in [bold]{escape(conversion.out)}[/], from {escape(conversion.source)}"
    )
    for split, counts in conversion.splits.items():
        console.print(escape(f"  {split}: {counts['images']} images, {counts['boxes']} boxes"))
    for what, count in conversion.lost.items():
        console.print(f"[yellow]{conversion.format_title} cannot hold[/] {escape(what)}: {count}")
    for note in conversion.notes:
        console.print(escape(f"note: {note}"))
