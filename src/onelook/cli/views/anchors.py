"""Prints found anchor boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from onelook.api.anchors import FoundAnchors


def show_anchors(found: FoundAnchors, console: Console) -> None:
    """Prints the anchors of each level, how well they fit, and the setting that uses them."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=found.present is not None)
    columns = [("", found.anchors, found.fit)]
    if found.present is not None:
        columns.insert(0, (str(found.model), *found.present))
        columns[1] = ("found", found.anchors, found.fit)
    table.add_column("")
    for name, _, _ in columns:
        table.add_column(name)
    for level in range(max(len(anchors) for _, anchors, _ in columns)):
        shown = [anchors[level] if level < len(anchors) else () for _, anchors, _ in columns]
        texts = ["  ".join(f"{w:g}x{h:g}" for w, h in one) for one in shown]
        table.add_row(f"level {level + 1}, width x height", *texts)
    table.add_row("best possible recall", *(f"{fit.recall:.4f}" for _, _, fit in columns))
    table.add_row("anchors that fit an object", *(f"{fit.fitting:.2f}" for _, _, fit in columns))
    table.add_row("fitness", *(f"{fit.fitness:.4f}" for _, _, fit in columns))
    console.print(f"{found.objects:,} objects at {found.size} pixels.")
    console.print(table)
    console.print("To train with the found ones, add this setting to onelook train:")
    console.print(f"'{found.override}'", soft_wrap=True, markup=False)
