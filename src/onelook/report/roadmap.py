"""The results of a roadmap beside the paper's: as CSV, Markdown, HTML, and as a chart."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from onelook.files import write_text
from onelook.recipes.records import PrintedTable
from onelook.recipes.roadmaps import PRINTED_METRICS, PublishedNumbers
from onelook.report.charts import Point, scatter_chart
from onelook.report.scatter_png import write_scatter_png
from onelook.report.style import STYLE
from onelook.types import NOTHING, text_repr

TITLES = {"top1": "top-1", "top5": "top-5"} | {name: name for name in PRINTED_METRICS}  # titles of the metrics


@dataclass(frozen=True)
class MeasuredRow:
    """The results of one row of a roadmap. change: settings that differ from the row `base`, as text.

    results: metrics of the last epoch in per cent, by metric (`AP` and others of it, or `top1` and `top5`) and seed.
    parameters: millions.  latency: milliseconds an image; None where nothing was measured.
    """

    key: str
    name: str
    base: str | None
    change: tuple[str, ...]
    results: Mapping[str, Mapping[int, float]]
    parameters: float
    gflops: float
    latency: float | None
    published: PublishedNumbers
    note: str = ""
    seconds: float = 0.0

    def mean(self, measure: str) -> float | None:
        """The mean of a metric over the seeds."""
        found = self.results.get(measure)
        return statistics.fmean(found.values()) if found else None

    def spread(self, measure: str) -> float | None:
        """The sample standard deviation over the seeds; None with fewer than two."""
        found = self.results.get(measure, {})
        return statistics.stdev(found.values()) if len(found) > 1 else None

    def published_value(self, measure: str) -> float | None:
        """The paper's value of a metric."""
        value: float | None = getattr(self.published, PRINTED_METRICS.get(measure, measure))
        return value


@dataclass(frozen=True)
class RoadmapTable:
    """The table of a roadmap with all results.

    name, title, source: of the roadmap, and of the paper's table.  rows: in the table's order.
    facts: conditions of the measurement, by name.  folder: None if nothing was trained.  measures: the metrics; the
    first is the one that rows are compared by.  printed: the paper's table cell by cell, where nothing was trained.
    """

    name: str
    title: str
    source: str
    rows: Sequence[MeasuredRow]
    facts: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    measures: tuple[str, ...] = ("AP",)
    printed: PrintedTable | None = None

    @property
    def trained(self) -> bool:
        """Whether any row has results."""
        return any(row.results for row in self.rows)

    def gain(self, row: MeasuredRow) -> tuple[float | None, float | None]:
        """The difference of AP (or top-1) between a row and its base, here and in the paper."""
        base = next((other for other in self.rows if other.key == row.base), None)
        if base is None:
            return None, None
        main = self.measures[0]
        return _difference(row.mean(main), base.mean(main)), _difference(
            row.published_value(main), base.published_value(main)
        )

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data, for `--json`."""
        rows = []
        for row in self.rows:
            here, there = self.gain(row)
            rows.append(
                {
                    "key": row.key,
                    "name": row.name,
                    "base": row.base,
                    "change": list(row.change),
                    **self._measured(row),
                    "gain": here,
                    "parameters": row.parameters,
                    "gflops": row.gflops,
                    "latency": row.latency,
                    "published": {**vars(row.published), "gain": there},
                    "note": row.note,
                    "seconds": row.seconds,
                }
            )
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "facts": dict(self.facts),
            "folder": None if self.folder is None else str(self.folder),
            "rows": rows,
            "printed": None if self.printed is None else self.printed.to_dict(),
        }

    def _measured(self, row: MeasuredRow) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place, measure in enumerate(self.measures):
            key = PRINTED_METRICS.get(measure, measure)
            seeds = row.results.get(measure, {})
            found[key] = row.mean(measure)
            found[f"{key}_spread" if place else "spread"] = row.spread(measure)
            found[f"{key}_by_seed"] = {str(seed): value for seed, value in seeds.items()}
        return found

    @property
    def _latency_digits(self) -> int:
        return self._digits("latency")

    def _digits(self, figure: str) -> int:
        """As many as the paper prints."""
        printed = (row.published_value(figure) for row in self.rows)
        return 2 if any(value is not None and round(value, 1) != value for value in printed) else 1

    @property
    def main_measures(self) -> tuple[str, ...]:
        """The metrics of the table itself: AP, or all of a classifier's."""
        return self.measures[:1] if self.measures[0] == "AP" else self.measures

    @property
    def more_measures(self) -> tuple[str, ...]:
        """What else of AP the paper prints, for a table of its own; () where nothing is trained."""
        return self.measures[len(self.main_measures) :] if self.trained else ()

    def more_columns(self) -> tuple[str, ...]:
        """The titles of the table of `more_measures`."""
        return ("row", *(cell for one in self.more_measures for cell in (TITLES[one], "paper")))

    def more_cells(self, row: MeasuredRow) -> tuple[str, ...]:
        """The cells of one row of that table."""
        return (row.name, *(cell for one in self.more_measures for cell in self._measured_and_printed(row, one)))

    def _measured_and_printed(self, row: MeasuredRow, measure: str) -> tuple[str, str]:
        return _with_spread(row, measure), _text(row.published_value(measure), self._digits(measure))

    def columns(self) -> tuple[str, ...]:
        """The titles of the columns; each measured value is followed by the paper's."""
        titles = [TITLES[measure] for measure in self.main_measures]
        costs = ("M parameters", "paper", "GFLOPs", "paper")
        if not self.trained:
            return ("row", *(f"{title} in the paper" for title in titles), *costs, "ms in the paper")
        others = (cell for title in titles[1:] for cell in (title, "paper"))
        return ("row", titles[0], "paper", "gain", "paper", *others, *costs, "ms", "paper")

    def cells(self, row: MeasuredRow) -> tuple[str, ...]:
        """The cells of one row as text, in the order of `columns`."""
        paper = row.published
        costs = (
            f"{row.parameters:.2f}",
            _text(paper.parameters, 2),
            f"{row.gflops:.1f}" if row.gflops >= 10 else f"{row.gflops:.2f}",
            _text(paper.gflops, 1 if (paper.gflops or 0) >= 10 else 2),
        )
        if not self.trained:
            return (
                row.name,
                *(_text(row.published_value(one), self._digits(one)) for one in self.main_measures),
                *costs,
                _text(paper.latency, self._latency_digits),
            )
        here, there = self.gain(row)
        main, *others = (self._measured_and_printed(row, one) for one in self.main_measures)
        return (
            row.name,
            *main,
            _text(here, 1, "+"),
            _text(there, self._digits(self.measures[0]), "+"),
            *(cell for pair in others for cell in pair),
            *costs,
            _text(row.latency, self._latency_digits),
            _text(paper.latency, self._latency_digits),
        )

    __repr__ = text_repr

    def __str__(self) -> str:
        return f"{self.source}: {self.title}\n\n{self.markdown()}"

    def csv(self) -> str:
        """The table as CSV, with all numbers at full precision."""
        text = io.StringIO()
        plain = self.to_dict()["rows"]
        seeds = sorted({seed for row in self.rows for found in row.results.values() for seed in found})
        main, *others = (PRINTED_METRICS.get(measure, measure) for measure in self.measures)
        names = ("key", "name", main, "spread", *(f"{main}_seed_{seed}" for seed in seeds), "gain", *others)
        names += ("parameters", "gflops", "latency", "seconds")
        paper = (main, "gain", *others, "parameters", "gflops", "latency")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*names, *(f"paper_{name}" for name in paper)))
        for row in plain:
            values = {**row, **{f"{main}_seed_{seed}": row[f"{main}_by_seed"].get(str(seed)) for seed in seeds}}
            found = [*(values[name] for name in names), *(row["published"][name] for name in paper)]
            writer.writerow("" if value is None else value for value in found)
        return text.getvalue()

    def markdown(self) -> str:
        """The table and its conditions in Markdown."""
        titles = self.columns()
        lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in self.cells(row))} |" for row in self.rows]
        if self.more_measures:
            titles = self.more_columns()
            lines += ["", f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
            lines += [f"| {' | '.join(cell.replace('|', '/') for cell in self.more_cells(row))} |" for row in self.rows]
        facts = [f"- {name}: {value}" for name, value in self.facts.items()]
        notes = [f"- {row.name}: {row.note}" for row in self.rows if row.note]
        return "\n".join([*lines, "", *facts, *notes]) + "\n"

    def html(self) -> str:
        """The table as a single HTML page."""
        tables = _html_table(self.columns(), [self.cells(row) for row in self.rows])
        if self.more_measures:
            tables += _html_table(self.more_columns(), [self.more_cells(row) for row in self.rows])
        facts = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts.items()
        )
        changes = "".join(
            f"<tr><td>{escape(row.name)}</td><td><code>{escape(', '.join(row.change)) or NOTHING}</code></td>"
            f"<td>{escape(row.note)}</td></tr>"
            for row in self.rows
        )
        title = escape(f"{self.source}: {self.title}")
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
            f"</head><body><main><h1>{title}</h1>"
            f'<section><div class="wide">{tables}</div></section>'
            f"<section><h2>Speed and accuracy</h2>{self.svg()}</section>"
            f"<section><h2>What each row changes</h2><table><tr><th>row</th><th>settings</th><th></th></tr>{changes}"
            f'</table></section><section><h2>Measured</h2><table class="facts">{facts}</table></section>'
            "</main></body></html>"
        )

    def points(self) -> list[Point]:
        """The points of the chart: measured AP (or top-1) and latency."""
        main, found = self.measures[0], []
        for row in self.rows:
            mean = row.mean(main)
            if mean is not None and row.latency is not None:
                spread = row.spread(main) or 0.0
                found.append(Point(row.name, row.latency, mean, (spread, spread)))
        return found

    def svg(self) -> str:
        """The speed-accuracy chart as SVG, like the first figures of the papers."""
        return scatter_chart(self.points(), "ms an image", f"{TITLES[self.measures[0]]} (per cent)")

    def write(self) -> None:
        """Writes table.csv, table.md, table.html, chart.svg and chart.png into the folder."""
        if self.folder is None:
            raise ValueError("a table without a folder cannot be written")
        write_text(self.folder / "table.csv", self.csv())
        write_text(self.folder / "table.md", self.markdown())
        write_text(self.folder / "table.html", self.html())
        write_text(self.folder / "chart.svg", self.svg())
        write_scatter_png(
            self.folder / "chart.png", self.points(), "ms an image", f"{TITLES[self.measures[0]]} (per cent)"
        )


def _html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="numbers"><tr>{head}</tr>{body}</table>'


def _with_spread(row: MeasuredRow, measure: str) -> str:
    spread = row.spread(measure)
    return _text(row.mean(measure), 1) + ("" if spread is None else f" \N{PLUS-MINUS SIGN} {spread:.1f}")


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _text(value: float | None, digits: int, sign: str = "") -> str:
    return NOTHING if value is None else f"{value:{sign}.{digits}f}"
