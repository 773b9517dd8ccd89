"""The live page of a training (`onelook train --watch`): its document, and its content as the training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from onelook.report.charts import Series, line_chart
from onelook.report.html import cards, document, section
from onelook.report.page import score_chart
from onelook.report.style import STYLE
from onelook.training.result import format_duration
from onelook.types import NOTHING

# The charts have colours of a light page as attributes, which a style sheet replaces.
_STYLE = """
#lost { display: none; }
body.lost #lost { display: block; }
.bar { height: 8px; border-radius: 4px; background: var(--line); overflow: hidden; margin: 0 0 14px; }
.bar i { display: block; height: 100%; background: var(--accent); }
.notes { margin: 0; padding-left: 18px; }
.images img { height: auto; max-height: 360px; }
.card { flex: 1 1 92px; }
@media (max-width: 600px) {
  main { padding: 16px 10px 40px; }
  section { padding: 14px; }
  h1 { font-size: 20px; overflow-wrap: anywhere; }
  .charts { grid-template-columns: minmax(0, 1fr); }
  .card { padding: 8px 12px; min-width: 84px; }
  .card b { font-size: 19px; }
  .charts svg text { font-size: 15px; }
}
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #e6eaef; --muted: #a7b2bf; --line: #37414c; --accent: #86bdf5; }
  body { background: #12161b; }
  section { background: #1b2128; }
  figure img { background: #0c0f13; }
  svg text { fill: var(--muted); }
  svg line { stroke: var(--line); }
  svg path { filter: brightness(1.35); }
}
"""
_PARTS = 8  # lines of the loss chart, at most: the total and the largest terms


@dataclass(frozen=True, eq=False)
class WatchState:
    """What the page shows.

    title: of the page.  metric: what decides which epoch is the best.  epoch: that runs, from 1 on; 0 before the first
    step.  step, steps: of the epoch.  phase: "starting", "training", "evaluating", "finished", "stopped" or "failed".
    points: (epochs, losses) of the steps so far.  rows: of metrics.csv.  left: seconds until the last step.
    image_epoch: after which the images are.  images: captions of the worst images.  ended: what to say at the end.
    """

    title: str
    metric: str
    epochs: int
    epoch: int = 0
    step: int = 0
    steps: int = 0
    phase: str = "starting"
    points: Sequence[tuple[float, Mapping[str, float]]] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    images_per_second: float = 0.0
    left: float | None = None
    image_epoch: int = 0
    images: Sequence[str] = ()
    warnings: Sequence[str] = ()
    ended: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the training has ended."""
        return self.phase in ("finished", "stopped", "failed")


def watch_script() -> str:
    """The script of the page: it asks for the content every two seconds."""
    return files("onelook.report").joinpath("watch.js").read_text(encoding="utf-8")


def watch_document(state: WatchState) -> str:
    """The page, with its content of now."""
    lost = (
        '<section id="lost" role="status"><b>The training does not answer.</b> It has ended, or the connection to its '
        "machine is lost. This is the last that was heard.</section>"
    )
    body = f'{lost}<div id="content">{watch_content(state)}</div><script src="watch.js"></script>'
    return document(state.title, body, style=STYLE + _STYLE)


def watch_content(state: WatchState) -> str:
    """The content of the page as HTML; `data-over` says that no other follows."""
    over = " data-over" if state.is_over else ""
    parts = [_summary(state), _curves(state), _images(state), _warnings(state)]
    return f"<div{over}>{''.join(parts)}</div>"


def _summary(state: WatchState) -> str:
    share = _share_done(state)
    best = [float(row[state.metric]) for row in state.rows if row.get(state.metric) not in (None, "")]
    losses = state.points[-1][1] if state.points else {}
    left = state.phase if state.is_over else NOTHING if state.left is None else format_duration(state.left)
    shown = [
        (left, "state" if state.is_over else "time left"),
        (f"{state.epoch}/{state.epochs}", "epoch"),
        (f"{max(best):.3f}" if best else NOTHING, f"best {state.metric}"),
        (f"{losses['total']:.3f}" if losses else NOTHING, "loss"),
        (f"{state.images_per_second:.1f}" if state.images_per_second else NOTHING, "images/s"),
    ]
    bar = (
        f'<div class="bar" role="progressbar" aria-label="done" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>'
    )
    where = {
        "starting": "The data is being checked.",
        "training": f"Step {state.step} of {state.steps} in epoch {state.epoch}.",
        "evaluating": f"Epoch {state.epoch} is being evaluated.",
    }.get(state.phase, state.ended)
    return f'<section>{bar}{cards(shown)}<p class="lead" style="margin:0">{escape(where)}</p></section>'


def _share_done(state: WatchState) -> float:
    if state.phase == "finished":
        return 100.0
    within = state.step / state.steps if state.steps else 0.0
    return 100.0 * min(1.0, max(0.0, state.epoch - 1 + within) / max(state.epochs, 1))


def _curves(state: WatchState) -> str:
    charts = []
    if state.points:
        names = list(dict.fromkeys(name for _, losses in state.points for name in losses))
        last = state.points[-1][1]
        largest = sorted(names, key=lambda name: (name != "total", -last.get(name, 0.0)))[:_PARTS]
        epochs = [epoch for epoch, _ in state.points]
        lines = [
            Series(name, epochs, [losses.get(name, float("nan")) for _, losses in state.points])
            for name in names
            if name in largest
        ]
        charts.append(line_chart(lines, "epoch", "loss"))
    if scores := score_chart(state.rows):
        charts.append(scores)
    if not charts:
        return section("Curves", "<p>They begin with the first step.</p>")
    return section("Curves", '<div class="charts">' + "".join(f"<div>{chart}</div>" for chart in charts) + "</div>")


def _images(state: WatchState) -> str:
    if not state.images:
        return section("Worst images", "<p>They are chosen at each evaluation.</p>") if not state.is_over else ""
    figures = "".join(
        f'<figure><img alt="" loading="lazy" src="image-{state.image_epoch}-{number}.jpg">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for number, caption in enumerate(state.images)
    )
    lead = f"Lowest F1 at IoU 0.5 after epoch {state.image_epoch}. Green: annotated. Other colours: detected."
    return section("Worst images", f'<div class="images">{figures}</div>', lead)


def _warnings(state: WatchState) -> str:
    if not state.warnings:
        return ""
    return section(
        "Warnings", '<ul class="notes">' + "".join(f"<li>{escape(one)}</li>" for one in state.warnings) + "</ul>"
    )
