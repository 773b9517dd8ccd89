"""Prints the problems of a data set, and the description of an installation."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onelook.api.check import Environment
from onelook.data.check import CheckReport
from onelook.errors import install_command

SHOWN_OF_A_CODE = 5
SHOWN_CLASSES = 20


def show_problems(result: CheckReport, console: Console) -> None:
    """Prints a table of the splits, then the first few problems of each kind."""
    console.print(f"{result.summary['format']} data set [bold]{escape(result.summary['data'])}[/]")
    table = Table("split", box=None, pad_edge=False, header_style="bold")
    for name in next(iter(result.summary["splits"].values()), {}):
        table.add_column(name, justify="right")
    for split, counts in result.summary["splits"].items():
        table.add_row(escape(split), *(str(count) for count in counts.values()))
    console.print(table)
    _show_statistics(result.summary["statistics"], console)
    for note in result.summary["notes"]:
        console.print(escape(f"note: {note}"))
    seen: Counter[tuple[str, str]] = Counter()
    for problem in sorted(result.problems, key=lambda problem: (problem.severity, problem.code)):
        key = (problem.severity, problem.code)
        seen[key] += 1
        if seen[key] <= SHOWN_OF_A_CODE:
            colour = "red" if problem.severity == "error" else "yellow"
            text = escape(f"{problem.place}: {problem.message} {problem.remedy}")
            console.print(f"[{colour}]{problem.severity}[/] {escape(f'[{problem.code}]')} {text}", soft_wrap=True)
        elif seen[key] == SHOWN_OF_A_CODE + 1:
            more = result.summary["codes"][problem.code] - SHOWN_OF_A_CODE
            console.print(f"  ... and {more} more of this kind (--json has them)", soft_wrap=True)
    counts = ((result.summary["errors"], "error"), (result.summary["warnings"], "warning"))
    console.print(", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts))
    if drawn := result.summary.get("drawn"):
        text = f"drew {_images(drawn['with_problems'])} with problems and {drawn['without']} without"
        if drawn["left_out"]:
            text += f" ({_images(drawn['left_out'])} with problems left out: unreadable, or too many)"
        console.print(
            escape(f"{text}\nwrote {drawn['folder']}: problems.txt names the drawing of each"), soft_wrap=True
        )


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _show_statistics(found: dict[str, Any], console: Console) -> None:
    """Prints the objects of each class, and the sizes of objects and images, by split."""
    totals: Counter[str] = Counter()
    for split in found.values():
        totals.update(split["per_class"])
    if not totals.total():
        return
    table = Table("class", box=None, pad_edge=False, header_style="bold")
    for name in found:
        table.add_column(f"objects in {name}", justify="right")
    for name, _ in totals.most_common(SHOWN_CLASSES):
        table.add_row(escape(name), *(f"{split['per_class'].get(name, 0):,}" for split in found.values()))
    console.print(table)
    if len(totals) > SHOWN_CLASSES:
        console.print(f"and {len(totals) - SHOWN_CLASSES} more classes (--json has them)", highlight=False)
    for name, split in found.items():
        sizes = ", ".join(f"{count:,} {size}" for size, count in split["object_sizes"].items())
        side, width, height = split["object_side"], split["image_width"], split["image_height"]
        if side["median"] is not None:
            text = f"{name}: {sizes} objects, {_range(side)} px, median {side['median']:g}; "
            text += f"images {_range(width)} px wide, {_range(height)} high"
            console.print(escape(text), highlight=False, soft_wrap=True)


def _range(spread: dict[str, float]) -> str:
    least, largest = spread["least"], spread["largest"]
    return f"{least:g}" if least == largest else f"{least:g} to {largest:g}"


def show_environment(environment: Environment, console: Console) -> None:
    """Prints tables of the system, packages, extras and devices."""
    table = Table(show_header=False, box=None)
    for name, value in {**environment.system, **environment.packages}.items():
        table.add_row(name, escape(str(value)) if value is not None else "[yellow]not installed[/]")
    for extra, packages in environment.extras.items():
        missing = [name for name, version in packages.items() if version is None]
        have = ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)
        hint = escape(install_command(extra)) if missing else ""
        table.add_row(f"extra {extra}", " ".join((have, f"[yellow]{hint}[/]" if hint else "")).strip())
    for device in environment.devices:
        table.add_row(device["name"], escape(device["description"]))
    console.print(table)
    for problem in environment.problems:
        console.print(f"[red]error[/] {escape(problem)}")
