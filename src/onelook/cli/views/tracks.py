"""Prints the metrics of tracks."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from onelook.evaluation.tracks import TrackCounts, TrackEvaluation
from onelook.types import NOTHING, UNDEFINED

_COUNTS = {"hits": "matched", "misses": "missed", "false_positives": "false", "switches": "switches"}


def show_tracks(result: TrackEvaluation, console: Console) -> None:
    """Prints one row for each video, and one for all."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("video")
    for name in (*result.metrics, *_COUNTS.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for name, counts in result.videos.items():
        table.add_row(name, *_cells(counts))
    if len(result.videos) > 1:
        table.add_row("all", *_cells(result.total), style="bold")
    console.print(table)


def _cells(counts: TrackCounts) -> list[str]:
    plain = counts.to_dict()
    metrics = [NOTHING if value == UNDEFINED else f"{value:.3f}" for value in counts.metrics.values()]
    return [*metrics, *(str(plain[name]) for name in _COUNTS)]
