"""Prints the result of a search for a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from onelook.types import NOTHING

if TYPE_CHECKING:
    from onelook.api.search import SearchResult


def show_search(result: SearchResult, console: Console) -> None:
    """Prints the found backbone above the published ones, and what was written."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("backbone of", no_wrap=True)
    for title in ("score", "layers", "parameters", "multiply-adds", "in budget", "detector", "GFLOPs"):
        table.add_column(title, justify="right")
    measured = any(row.predicted is not None for row in result.rows)
    if measured:
        table.add_column("ms predicted", justify="right")
        table.add_column("ms measured", justify="right")
    for place, row in enumerate(result.rows):
        times = (row.predicted, row.measured)
        table.add_row(
            row.name,
            f"{row.score:.1f}",
            str(row.layers),
            f"{row.parameters / 1e6:.2f} M",
            f"{row.flops / 1e9:.2f} G",
            "yes" if row.within else "no",
            f"{row.detector_parameters / 1e6:.2f} M",
            f"{row.gflops:.2f}",
            *((NOTHING if value is None else f"{1e3 * value:.1f}" for value in times) if measured else ()),
            style="bold" if place == 0 else None,
        )
    console.print(table)
    console.print(
        f"At {result.size} pixels. Layers, parameters and multiply-adds of the backbone as MAE-NAS counts them;"
        " detector: parameters and GFLOPs of the whole deploy form, 2 a multiply-add.",
        style="dim",
    )
    if result.calibration is not None:
        console.print(
            f"Of {len(result.calibration.measured)} random networks the table predicted the order with a rank"
            f" correlation of {result.calibration.correlation:.2f}.",
            style="dim",
        )
    if result.interrupted:
        console.print(f"Stopped. To resume: {result.resume_command}", soft_wrap=True, markup=False)
    console.print(f"The model: {result.model}   the chart: {result.chart}", soft_wrap=True, markup=False)
    console.print(f"To train it: onelook train DATA --model {result.model}", soft_wrap=True, markup=False)
