"""The results of `gpu.py` as a Markdown page: what was aimed at, and one table a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from onelook.types import NOTHING

Row = dict[str, Any]
# On one H100 or H200, YOLOX-S at 640 pixels and batch 64.
LEAST_STEP, LEAST_TRAINING, MOST_SHARE = 2000, 1800, 0.05


def markdown(result: Row) -> str:
    """The page."""
    setup, rows = result["setup"], result["rows"]
    pages = [
        "# On a GPU",
        ", ".join(f"{name} {value}" for name, value in setup.items() if value is not None),
        *_ends(result["parts"]),
        *_aims(rows),
        *_tests([row for row in rows if row["part"] == "tests"]),
        *_steps([row for row in rows if row["part"] == "steps"]),
        *_trainings([row for row in rows if row["part"] == "trainings"]),
        *_detection([row for row in rows if row["part"] == "detection"]),
    ]
    return "\n\n".join(pages) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first `words` columns are text, the others numbers."""
    line = [*["---"] * words, *["--:"] * (len(heads) - words)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, line, *rows))


def _number(row: Row, name: str, digits: int) -> str:
    value = row.get(name)
    return NOTHING if value is None else f"{value:.{digits}f}"


def _remark(row: Row) -> str:
    return str(row.get("error") or row.get("left_out") or "").split("\n")[0].replace("|", "/")


def _ends(ends: dict[str, Row]) -> list[str]:
    told = [f"{name}: {end['seconds']} s, {end['end']}" for name, end in ends.items()]
    return ["Parts: " + "; ".join(told) + "."] if told else []


def _best(rows: list[Row], accepts: Callable[[Row], bool]) -> Row | None:
    found = [row for row in rows if accepts(row) and "images_per_second" in row]
    return max(found, key=lambda row: row["images_per_second"], default=None)


def _aims(rows: list[Row]) -> list[str]:
    """What was aimed at for YOLOX-S, and its figures; nothing where it was not measured."""

    def own(row: Row) -> bool:
        return row.get("model") == "yolox-s"

    step = _best(rows, lambda row: own(row) and row["part"] == "steps" and row["step"] != "textbook")
    eager = _best(rows, lambda row: own(row) and "share_of_losses" in row)
    training = _best(rows, lambda row: own(row) and row["part"] == "trainings" and row["cache"] != "none")
    lines = []
    if step is not None:
        rate = step["images_per_second"]
        lines.append([_reached(rate >= LEAST_STEP), f"step, {LEAST_STEP} images a second at least", f"{rate:.0f}"])
        waits = step["synchronisations"]
        lines.append([_reached(waits == 0), "no synchronisation in a step, reading the losses aside", f"{waits:g}"])
    if eager is not None:
        share = eager["share_of_losses"]
        lines.append([_reached(share <= MOST_SHARE), "assignment and losses, 5 % of the step at most", f"{share:.1%}"])
    if training is not None:
        rate = training["images_per_second"]
        name = f"whole training with cached images, {LEAST_TRAINING} images a second at least"
        lines.append([_reached(rate >= LEAST_TRAINING), name, f"{rate:.0f}"])
    return ["## Aims, YOLOX-S", _table(("", "aim", "figure"), lines, 2)] if lines else []


def _reached(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def _tests(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    counts = Counter(row["outcome"] for row in rows)
    failed = [f"- `{row['test']}`" for row in rows if row["outcome"] == "failed"]
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return ["## Tests", told + ".", *(["\n".join(failed)] if failed else [])]


def _steps(rows: list[Row]) -> list[str]:
    """Each model's steps, with the ratio to its textbook step in the same precision, or else the one there is."""
    if not rows:
        return []
    textbook = {
        row["model"]: row["milliseconds"] for row in rows if row["step"] == "textbook" and "milliseconds" in row
    }
    cells = []
    for row in sorted(rows, key=lambda row: (row["model"], row.get("milliseconds", float("inf")))):
        ratio = NOTHING
        if row["model"] in textbook and "milliseconds" in row:
            ratio = f"{textbook[row['model']] / row['milliseconds']:.2f}"
        share = row.get("share_of_losses")
        cells.append(
            [
                row["model"],
                row["step"],
                row["precision"],
                row["layout"],
                _remark(row),
                _number(row, "milliseconds", 1),
                _number(row, "images_per_second", 0),
                ratio,
                _number(row, "gib", 1),
                _number(row, "synchronisations", 2),
                NOTHING if share is None else f"{share:.1%}",
            ]
        )
    words = ("model", "step", "precision", "layout", "remark")
    numbers = ("ms", "images/s", "times the textbook", "GiB", "waits a step", "assignment and losses")
    return [
        f"## The step alone, batch {rows[0]['batch']}, {rows[0]['size']} pixels",
        _table((*words, *numbers), cells, len(words)),
    ]


def _trainings(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    cells = [
        [
            row["augment_on"],
            row["cache"],
            _remark(row),
            _number(row, "images_per_second", 0),
            _number(row, "part_waiting_for_the_loader", 2),
            _number(row, "gib", 1),
        ]
        for row in rows
    ]
    heads = ("augmented on", "cache", "remark", "images/s", "part waiting for the loader", "GiB")
    title = f"## Whole trainings, {rows[0]['model']}, batch {rows[0]['batch']}, {rows[0]['workers']} workers"
    return [title, _table(heads, cells, 3)]


def _detection(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    cells = []
    for row in rows:
        latency = row.get("latency_milliseconds", {})
        cells.append(
            [
                row["name"],
                row["precision"],
                row.get("device", NOTHING),
                _remark(row),
                str(row["batch"]),
                _number(latency, "p50", 2),
                _number(latency, "p90", 2),
                _number(row, "images_per_second", 0),
                _number(row, "gib", 2),
            ]
        )
    heads = ("runtime", "precision", "device", "remark", "batch", "ms p50", "ms p90", "images/s", "GiB")
    return [f"## Detection, {rows[0]['model']}, {rows[0]['size']} pixels, NMS in the time", _table(heads, cells, 4)]
