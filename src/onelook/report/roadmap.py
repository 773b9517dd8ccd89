"""A roadmap as it was measured, beside the paper's: on the terminal, as CSV, Markdown, HTML, and as a picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onelook.recipes.roadmaps import Figures
from onelook.report.charts import Point, scatter_chart
from onelook.report.picture import scatter_picture
from onelook.report.style import STYLE
from onelook.train.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

_NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class MeasuredRow:
    """One row. change: what it changes of the row `base`, as text.  aps: AP of the last epoch in per cent, by seed.

    parameters: millions.  latency: milliseconds an image; None where nothing was measured.
    """

    key: str
    name: str
    base: str | None
    change: tuple[str, ...]
    aps: Mapping[int, float]
    parameters: float
    gflops: float
    latency: float | None
    published: Figures
    note: str = ""
    seconds: float = 0.0

    @property
    def ap(self) -> float | None:
        """The mean over seeds."""
        return statistics.fmean(self.aps.values()) if self.aps else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds; None of fewer than two."""
        return statistics.stdev(self.aps.values()) if len(self.aps) > 1 else None


@dataclass(frozen=True)
class RoadmapTable:
    """The rows, with what was measured and how. facts: what the figures depend on, by name.  folder: None if nothing
    was trained."""

    name: str
    title: str
    source: str
    rows: Sequence[MeasuredRow]
    facts: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def trained(self) -> bool:
        """Whether there is anything measured to show."""
        return any(row.aps for row in self.rows)

    def gain(self, row: MeasuredRow) -> tuple[float | None, float | None]:
        """What a row adds to the AP of its base, here and in the paper."""
        base = next((other for other in self.rows if other.key == row.base), None)
        if base is None:
            return None, None
        return _difference(row.ap, base.ap), _difference(row.published.ap, base.published.ap)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        rows = []
        for row in self.rows:
            here, there = self.gain(row)
            rows.append(
                {
                    "key": row.key,
                    "name": row.name,
                    "base": row.base,
                    "change": list(row.change),
                    "ap": row.ap,
                    "spread": row.spread,
                    "ap_by_seed": {str(seed): ap for seed, ap in row.aps.items()},
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
        }

    def columns(self) -> tuple[str, ...]:
        """The titles of the table; what was measured first, the paper's figure after it."""
        measured = ("AP", "paper", "gain", "paper") if self.trained else ("AP in the paper",)
        last = ("ms", "paper") if self.trained else ("ms in the paper",)
        return ("row", *measured, "M parameters", "paper", "GFLOPs", "paper", *last)

    def cells(self, row: MeasuredRow) -> tuple[str, ...]:
        """The texts of one row, in the order of `columns`."""
        paper = row.published
        costs = (
            f"{row.parameters:.2f}",
            _text(paper.parameters, 2),
            f"{row.gflops:.1f}" if row.gflops >= 10 else f"{row.gflops:.2f}",
            _text(paper.gflops, 1 if (paper.gflops or 0) >= 10 else 2),
        )
        if not self.trained:
            return (row.name, _text(paper.ap, 1), *costs, _text(paper.latency, 1))
        here, there = self.gain(row)
        spread = "" if row.spread is None else f" \N{PLUS-MINUS SIGN} {row.spread:.1f}"
        return (
            row.name,
            f"{_text(row.ap, 1)}{spread}",
            _text(paper.ap, 1),
            _text(here, 1, "+"),
            _text(there, 1, "+"),
            *costs,
            _text(row.latency, 1),
            _text(paper.latency, 1),
        )

    def show(self, console: Console) -> None:
        """The table, what each row changes, and where the files are."""
        from rich.table import Table
        from rich.text import Text

        console.print(Text(f"{self.source}: {self.title}", style="bold"))
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for title in self.columns():
            table.add_column(title, justify="left" if title == "row" else "right", no_wrap=title != "row")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in self.cells(row)))
        console.print(table)
        console.print()
        if not self.trained:
            for row in self.rows:
                base = f"of {row.base}: " if row.base else ""
                console.print(Text.assemble((row.key, "cyan"), f"  {base}{', '.join(row.change) or 'where it begins'}"))
            console.print()
        for row in self.rows:
            if row.note:
                console.print(Text(f"{row.key}: {row.note}", style="dim"))
        for name, value in self.facts.items():
            console.print(Text(f"{name}: {value}", style="dim"))
        if self.folder is not None:
            console.print(Text(f"wrote {self.folder / 'table.html'}, .csv, .md and picture.svg, .png"), soft_wrap=True)

    def csv(self) -> str:
        """One line a row, all numbers at full precision."""
        text = io.StringIO()
        plain = self.to_dict()["rows"]
        seeds = sorted({seed for row in self.rows for seed in row.aps})
        names = ("key", "name", "ap", "spread", *(f"ap_seed_{seed}" for seed in seeds), "gain")
        names += ("parameters", "gflops", "latency", "seconds")
        paper = ("ap", "gain", "parameters", "gflops", "latency")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*names, *(f"paper_{name}" for name in paper)))
        for row in plain:
            values = {**row, **{f"ap_seed_{seed}": row["ap_by_seed"].get(str(seed)) for seed in seeds}}
            found = [*(values[name] for name in names), *(row["published"][name] for name in paper)]
            writer.writerow("" if value is None else value for value in found)
        return text.getvalue()

    def markdown(self) -> str:
        """The table and what it depends on."""
        titles = self.columns()
        lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in self.cells(row))} |" for row in self.rows]
        facts = [f"- {name}: {value}" for name, value in self.facts.items()]
        notes = [f"- {row.name}: {row.note}" for row in self.rows if row.note]
        return "\n".join([*lines, "", *facts, *notes]) + "\n"

    def html(self) -> str:
        """A page that needs no other file."""
        head = "".join(f"<th>{escape(title)}</th>" for title in self.columns())
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in self.cells(row))}</tr>" for row in self.rows
        )
        facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(said)}</td></tr>" for name, said in self.facts.items())
        changes = "".join(
            f"<tr><td>{escape(row.name)}</td><td><code>{escape(', '.join(row.change)) or _NOTHING}</code></td>"
            f"<td>{escape(row.note)}</td></tr>"
            for row in self.rows
        )
        title = escape(f"{self.source}: {self.title}")
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
            f"</head><body><main><h1>{title}</h1>"
            f'<section><div class="wide"><table class="numbers"><tr>{head}</tr>{body}</table></div></section>'
            f"<section><h2>Speed and accuracy</h2>{self.svg()}</section>"
            f"<section><h2>What each row changes</h2><table><tr><th>row</th><th>settings</th><th></th></tr>{changes}"
            f'</table></section><section><h2>Measured</h2><table class="facts">{facts}</table></section>'
            "</main></body></html>"
        )

    def points(self) -> list[Point]:
        """AP against latency, as measured here."""
        known = [row for row in self.rows if row.ap is not None and row.latency is not None]
        return [Point(row.name, row.latency or 0.0, row.ap or 0.0, row.spread or 0.0) for row in known]

    def svg(self) -> str:
        """The picture like the papers' first figures."""
        return scatter_chart(self.points(), "ms an image", "AP")

    def write(self) -> None:
        """Writes table.csv, table.md, table.html, picture.svg and picture.png into the folder."""
        if self.folder is None:
            raise ValueError("a table without a folder cannot be written")
        write_text(self.folder / "table.csv", self.csv())
        write_text(self.folder / "table.md", self.markdown())
        write_text(self.folder / "table.html", self.html())
        write_text(self.folder / "picture.svg", self.svg())
        scatter_picture(self.folder / "picture.png", self.points(), "ms an image", "AP")


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _text(value: float | None, digits: int, sign: str = "") -> str:
    return _NOTHING if value is None else f"{value:{sign}.{digits}f}"
