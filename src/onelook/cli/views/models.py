"""Prints the list of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.types import NOTHING

if TYPE_CHECKING:
    from onelook.api.models import ModelList, PrintedRow


_PLAIN_COLUMNS = ("Section", "About", "Stated", "Content", "Address")  # say what they are without their title


def show_models(models: ModelList, console: Console) -> None:
    """Prints a table of models; for a single model also where its weights are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("family", no_wrap=True)
    for title in ("parameters", "GFLOPs", "size", "AP"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("licence")  # wrapped where the terminal is narrow; a name or a number that is cut says nothing
    for row in models:
        model = row.variant
        height, width = model.architecture.size
        table.add_row(
            model.name,
            model.family,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.gflops:.2f}",
            f"{height}" if height == width else f"{height}x{width}",
            f"{model.published.ap:.1f}" if model.published else NOTHING,
            model.licence,
        )
    console.print(table)
    console.print(
        "Parameters of the training form; GFLOPs of the deploy form's convolutions at that size, 2 a multiply-add;"
        " published AP on COCO.",
        style="dim",
    )
    if len(models) > 1:
        console.print("Where a model's official weights are: onelook models NAME", style="dim")
        return
    model = models[0].variant
    if place := model.url or model.weights_file:
        console.print(f"Official weights: {place}", soft_wrap=True)
    if model.backbone:
        console.print(f"Of the backbone alone, to train from: {model.backbone}", soft_wrap=True)
    above = ""
    for line in models[0].printed:
        if line.source != above:
            console.print(Text.assemble("\n", (line.source, "bold"), (f": {line.setting}", "dim")))
            above = line.source
        console.print(Text(f"  {_printed_row(line, model.name)}"), soft_wrap=True)


def _printed_row(line: PrintedRow, model: str) -> str:
    """The cells of a printed row, without empty ones; a name of the model, as printed, comes first."""
    from onelook.recipes.records import is_printed_name

    cells = list(line.cells.items())
    name = ""
    if is_printed_name(cells[0][1], model):
        name = f"{cells.pop(0)[1]}:  "
    filled = [(title, value) for title, value in cells if value not in ("", "-")]
    return name + "   ".join(value if title in _PLAIN_COLUMNS else f"{title} {value}" for title, value in filled)
