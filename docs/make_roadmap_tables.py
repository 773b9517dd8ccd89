"""Writes docs/roadmap_tables.md, the cost of every row of every roadmap: python docs/make_roadmap_tables.py"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from onelook.networks.variants import VARIANTS
from onelook.recipes.records import PRINTED_TABLES, printed_rows, printed_table
from onelook.recipes.roadmaps import COUNTS, ROADMAPS, Roadmap, Row

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "roadmap_tables.md"

INTRODUCTION = """# The cost of every row

Made by `python docs/make_roadmap_tables.py`; a test compares both. What the tables show, how to train them, and why
some figures do not agree: [roadmaps.md](roadmaps.md).

Parameters are millions. Ours are counted at 80 classes and at the size of the row, in the way in which the paper counts,
which each table names. **Equal** means: rounded to the digits that the paper prints, both figures are the paper's.
"""
NOTHING = "\N{EN DASH}"
UNPRINTED = "no cost is printed"


def page() -> str:
    """The whole page."""
    verdicts = [verdict(table, row) for table in ROADMAPS.values() for row in table.rows]
    equal, unprinted = verdicts.count("equal"), sum(text.startswith(UNPRINTED) for text in verdicts)
    models = [line for paper in MODELS for line in model_lines(paper)]
    agree = sum(line[-1] == "equal" for line in models)
    counts = (
        f"\nOf {len(verdicts)} rows the papers print a cost for {len(verdicts) - unprinted}: {equal} are equal, "
        f"{len(verdicts) - unprinted - equal} are not. Of the {len(models)} figures of finished models below, {agree} are "
        "equal.\n"
    )
    parts = [INTRODUCTION, counts, *(roadmap_section(table) for table in ROADMAPS.values())]
    return "".join([*parts, "\n# Finished models\n", *(models_section(paper) for paper in MODELS)])


def roadmap_section(table: Roadmap) -> str:
    """One roadmap: its rows with both costs, and whether they are equal."""
    lines = []
    for row in table.rows:
        parameters, gflops = cost(table, row)
        printed = row.published
        lines.append(
            (
                row.name,
                f"{parameters:.2f}",
                figure(printed.parameters, digits(table, "parameters")),
                f"{gflops:.2f}",
                figure(printed.gflops, digits(table, "gflops")),
                verdict(table, row),
            )
        )
    own = [f"`{row.key}`: {COUNTS[row.counts]}" for row in table.rows if row.counts is not None]
    how = ". ".join([f"Counted {COUNTS[table.counts]}", *own])
    head = ("row", "parameters", "paper", "GFLOPs", "paper", "equal, or why not")
    return f"\n## {table.source}: {table.title}\n\n`onelook roadmap {table.name}`. {how}.\n\n{markdown(head, lines)}"


def verdict(table: Roadmap, row: Row) -> str:
    """ "equal", or in one line why the figures of a row are not, or cannot be compared."""
    ours, printed = cost(table, row), (row.published.parameters, row.published.gflops)
    if printed == (None, None):
        return f"{UNPRINTED}. {row.note}" if row.note else UNPRINTED
    names = ("parameters", "gflops")
    same = all(
        theirs is None or rounds_to(mine, theirs, digits(table, name))
        for name, mine, theirs in zip(names, ours, printed)
    )
    if not same and not row.note:
        raise ValueError(f"{table.name}:{row.key} has another cost than printed, and no note that says why")
    return "equal" if same else row.note


@cache
def cost(table: Roadmap, row: Row) -> tuple[float, float]:
    """Parameters in millions, and GFLOPs, of a row."""
    return _cost(table, table.recipes[row.key].model, row)


def _cost(table: Roadmap, model: Any, row: Row) -> tuple[float, float]:
    key = (model, row.counts or table.counts)
    if key not in _COSTS:
        _COSTS[key] = table.cost(row, model, model.size)
    return _COSTS[key]


_COSTS: dict[Any, tuple[float, float]] = {}  # many rows share a network


def digits(table: Roadmap, name: str) -> int:
    """How many digits the paper prints behind the point, in the figures of a table."""
    values = (getattr(row.published, name) for row in table.rows)
    return max((len(repr(value).partition(".")[2]) for value in values if value is not None), default=0)
