"""Prints the result of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.api.demo import Demo

if TYPE_CHECKING:
    from onelook.api.demo_video import VideoDemo


def show_demo(made: Demo, console: Console) -> None:
    """Prints the time and the result of each stage, and all paths."""
    outcomes = {
        "train": f"AP {made.stats['AP']:.3f}, AP50 {made.stats['AP50']:.3f} on images it has not seen",
        "validate": f"the exported file has AP {made.exported['AP']:.3f}, AP50 {made.exported['AP50']:.3f}",
    }
    _show_stages(made.seconds, outcomes, made.paths, console)


def show_video_demo(made: VideoDemo, console: Console) -> None:
    """Prints the time and the result of each stage, and all paths."""
    metrics, best, slow = made.tracks.metrics, made.streaming.best, made.slower.best
    outcomes = {
        "track": ", ".join(f"{name} {metrics[name]:.3f}" for name in ("HOTA", "IDF1", "MOTA")),
        "measure streaming AP": (
            f"sAP {best.streaming['AP']:.3f} of AP {best.offline['AP']:.3f}; "
            f"{slow.streaming['AP']:.3f} at {slow.milliseconds['mean']:.0f} ms a frame, forecast {slow.forecast}"
        ),
    }
    _show_stages(made.seconds, outcomes, made.paths, console)


def _show_stages(
    seconds: Mapping[str, float], outcomes: Mapping[str, str], paths: Mapping[str, Path], console: Console
) -> None:
    stages = Table(box=None, header_style="bold", pad_edge=False)
    for column, side in (("stage", "left"), ("seconds", "right"), ("what came of it", "left")):
        stages.add_column(column, justify=side)  # type: ignore[arg-type]
    for stage, taken in seconds.items():
        stages.add_row(stage, f"{taken:.1f}", outcomes.get(stage, ""))
    console.print(stages)
    places = Table(box=None, show_header=False, pad_edge=False)
    for name, path in paths.items():
        places.add_row(name, Text(str(path)), style=None)
    console.print()
    console.print(places, soft_wrap=True)
