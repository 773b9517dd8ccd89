"""Writes docs/roadmap_tables.md, the cost of every row of every roadmap: python docs/make_roadmap_tables.py"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from onelook.networks.detector import Architecture
from onelook.networks.variants import VARIANTS
from onelook.recipes.records import printed_rows
from onelook.recipes.roadmaps import COUNTS, ROADMAPS, Roadmap, Row
from onelook.recipes.roadmaps.roadmap import Counts, count_cost

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "roadmap_tables.md"
NOTHING = "\N{EN DASH}"
UNPRINTED = "no cost printed"
ABSENT = "The copy of the paper that the figures were taken from has no tables."

INTRODUCTION = """# What every row costs, here and in the papers

Made by `python docs/make_roadmap_tables.py`; a test compares both. What the tables show, how they are trained, and
which readings of the papers they rest on: [roadmaps.md](roadmaps.md).

Parameters are millions, counted at 80 classes (classifiers: 1,000); GFLOPs at the size of the row's input. Each table
says how its paper counts. **equal**: rounded to the printed digits, the counted figures are the printed ones.
"""

# How the papers count finished models, where another way than that of their family gives the printed figures.
FAMILY_COUNTS: dict[str, Counts] = {"YOLOX": "profiler", "YOLOv4": "biases", "YOLOv7": "biases", "DAMO-YOLO": "merged"}
MODEL_COUNTS: dict[str, Counts] = {
    "yolov4": "profiler",
    "yolov7-tiny": "profiler",
    "yolov7-tiny-silu": "profiler",
    "damo-yolo-s": "affine",
}
DIFFERENT = {
    "yolov7-d6": "the paper's figures are of the training form, which has auxiliary heads: 154.71 M parameters",
    "yolov7-tiny-silu": "convolutions alone, without biases, are 13.70; YOLOv7's paper prints 13.8",
    "yolov4-tiny": "0.02 less; by whom and how the cited figure was counted is not said",
    "yolov4-tiny-3l": "the released network of this name has 6.3 M parameters; what the paper counted is not known",
}
BY_FOUR = "equal: the count at 640 pixels, {:.1f}, times 4"


def page() -> str:
    """The whole page."""
    verdicts = [verdict(table, row) for table in ROADMAPS.values() for row in table.rows]
    printed = [text for text in verdicts if not text.startswith(UNPRINTED)]
    equal = printed.count("equal")
    models = model_lines()
    agree = sum(line[-1].startswith("equal") for line in models)
    counted = (
        f"\nOf {len(verdicts)} rows the papers print the cost of {len(printed)}: {equal} are equal, "
        f"{len(printed) - equal} are not. Of {len(models)} printed costs of finished models, {agree} are equal.\n"
    )
    sections = [roadmap_section(table) for table in ROADMAPS.values()]
    head = ("model", "printed in", "input", "parameters", "paper", "GFLOPs", "paper", "equal, or why not")
    finished = (
        "\n## Finished models\n\nIn the papers' comparisons of detectors, in which a model is often printed several "
        f"times. `onelook models NAME` shows all that is printed of one.\n\n{markdown(head, models, left=2)}"
    )
    return "".join([INTRODUCTION, counted, *sections, finished])


def roadmap_section(table: Roadmap) -> str:
    """One roadmap: its rows with both costs, and whether they are equal."""
    lines = []
    for row in table.rows:
        parameters, gflops = cost(row.counts or table.counts, table.recipes[row.key].model)
        printed = (row.published.parameters, row.published.gflops)
        theirs = [
            NOTHING if value is None else f"{value:.{digits(table, name)}f}" for value, name in zip(printed, COSTS)
        ]
        lines.append((row.name, f"{parameters:.2f}", theirs[0], f"{gflops:.2f}", theirs[1], verdict(table, row)))
    ways: dict[Counts, list[str]] = {}
    for row in table.rows:
        if row.counts is not None:
            ways.setdefault(row.counts, []).append(row.name)
    own = [f"{' and '.join(names)}: {COUNTS[way]}." for way, names in ways.items()]
    how = " ".join([f"Counted: {COUNTS[table.counts]}.", *own])
    head = ("row", "parameters", "paper", "GFLOPs", "paper", "equal, or why not")
    return f"\n## {table.source}: {table.title}\n\n`onelook roadmap {table.name}`. {how}\n\n{markdown(head, lines)}"


COSTS = ("parameters", "gflops")


def verdict(table: Roadmap, row: Row) -> str:
    """Whether a row's cost is the printed one, and in one line why not; ValueError where no note says why."""
    printed = [getattr(row.published, name) for name in COSTS]
    if printed == [None, None]:
        why = ABSENT if table.source.startswith("YOLOv4,") else row.note
        return f"{UNPRINTED}. {why}" if why else UNPRINTED
    ours = cost(row.counts or table.counts, table.recipes[row.key].model)
    pairs = zip(ours, printed, COSTS)
    if all(theirs is None or rounds_to(mine, f"{theirs:.{digits(table, name)}f}") for mine, theirs, name in pairs):
        return "equal"
    if not row.note:
        raise ValueError(f"{table.name}:{row.key} has not the printed cost, and no note says why")
    return row.note


def digits(table: Roadmap, name: str) -> int:
    """How many digits the paper prints behind the point, in a column of a table."""
    values = [getattr(row.published, name) for row in table.rows]
    return max((len(repr(value).partition(".")[2]) for value in values if value is not None), default=0)


def rounds_to(value: float, printed: str) -> bool:
    """Whether a value, rounded to the digits of a printed number, is that number; halves may go either way."""
    return abs(value - float(printed)) <= 0.5001 * 10.0 ** -len(printed.partition(".")[2])


@cache
def cost(counts: Counts, model: Architecture, size: int | None = None) -> tuple[float, float]:
    """Parameters in millions, and GFLOPs, at the model's own input size or another. Many rows share a network."""
    return count_cost(model, model.size if size is None else (size, size), counts)


def model_lines() -> list[tuple[str, ...]]:
    """Every printed cost of a finished model, each once, with the tables that print it."""
    found: dict[tuple[str, str, str, int], list[str]] = {}
    for model in VARIANTS.values():
        for table, row in printed_rows(model.name):
            cells = dict(zip(table.columns, row))
            values = [next((cells[title] for title in cells if part in title), "") for part in ("Param", "FLOPs")]
            if values[0]:
                size = int(cells.get("Size", model.architecture.size[0]))
                key = (model.name, values[0].rstrip("M"), values[1].rstrip("G"), size)
                if table.source not in found.setdefault(key, []):
                    found[key].append(table.source)
    return [model_line(*key, sources) for key, sources in found.items()]


def model_line(name: str, parameters: str, gflops: str, size: int, sources: Sequence[str]) -> tuple[str, ...]:
    """One printed cost of a finished model beside ours."""
    model = VARIANTS[name]
    counts = MODEL_COUNTS.get(name, FAMILY_COUNTS[model.family])
    ours = cost(counts, model.architecture, size)
    same = [rounds_to(mine, theirs) for mine, theirs in zip(ours, (parameters, gflops))]
    quarter = round(ours[1] / 4, 1)
    if all(same):
        said = "equal"
    elif same[0] and size == 1280 and rounds_to(4 * quarter, gflops):
        said = BY_FOUR.format(quarter)
    else:
        said = DIFFERENT[name]
    where = "; ".join(sources)
    return (name, where, str(size), f"{ours[0]:.2f}", parameters, f"{ours[1]:.2f}", gflops, said)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; the first columns and the last are aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left - 1) + ["---"]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
