"""Prints the result of the demo."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onelook.api.demo import Demo


def show_demo(made: Demo, console: Console) -> None:
    """Prints the time and the result of each stage, and all paths."""
    stages = Table(box=None, header_style="bold", pad_edge=False)
    for column, side in (("stage", "left"), ("seconds", "right"), ("what came of it", "left")):
        stages.add_column(column, justify=side)  # type: ignore[arg-type]
    outcomes = {
        "train": f"AP {made.stats['AP']:.3f}, AP50 {made.stats['AP50']:.3f} on images it has not seen",
        "validate": f"the exported file has AP {made.exported['AP']:.3f}, AP50 {made.exported['AP50']:.3f}",
    }
    for stage, seconds in made.seconds.items():
        stages.add_row(stage, f"{seconds:.1f}", outcomes.get(stage, ""))
    console.print(stages)
    places = Table(box=None, show_header=False, pad_edge=False)
    for name, path in made.paths.items():
        places.add_row(name, Text(str(path)), style=None)
    console.print()
    console.print(places, soft_wrap=True)
