"""The page of `onelook demo --video`: the clip with its tracks, their metrics, and streaming AP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from onelook.evaluation.tracks import TrackEvaluation
from onelook.files import write_text
from onelook.report.charts import Point, scatter_chart
from onelook.report.clip import clip_figure
from onelook.report.comparison import number
from onelook.report.html import cards, document, facts_table, section, table
from onelook.report.page import curves_section
from onelook.report.streaming import COLUMNS, StreamedModel, Streaming, cells

_COUNTS = {
    "objects": "annotated",
    "hits": "matched",
    "misses": "missed",
    "false_positives": "false",
    "switches": "switches of identity",
}


@dataclass(frozen=True, eq=False)
class VideoReport:
    """The content of the page.

    clip: a WebM video with boxes, identities and trails.  streaming: sAP with the run times of this machine.  slower:
    with those of a slower one.  history: rows of the training's metrics.csv.
    """

    title: str
    clip: Path
    tracks: TrackEvaluation
    streaming: Streaming
    slower: Streaming
    history: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]


def write_video_report(path: Path, report: VideoReport) -> Path:
    """Writes the page into a file, atomically; returns its path."""
    write_text(path, render_video_report(report))
    return path


def render_video_report(report: VideoReport) -> str:
    """The page as one HTML document with the clip inside, without scripts and links."""
    body = [
        section("Tracks", _headline(report) + clip_figure(report.clip, escape(_CAPTION))),
        section("Identities", _tracks_table(report.tracks), _TRACKS_LEAD),
        section("Streaming AP", _streaming_table(report) + scatter_chart(_points(report), *_AXES), _STREAMING_LEAD),
        curves_section(report.history),
        section("How it was made", facts_table(report.facts)),
    ]
    return document(report.title, "".join(body))


_CAPTION = (
    "Boxes of the detector, with a colour and a number for each identity, and the trail of its last 45 frames. Objects "
    "cross each other, and pass behind a grey wall."
)
_TRACKS_LEAD = "All objects whose visible part is a quarter or more are annotated, by the program that drew them."
_STREAMING_LEAD = (
    "Accuracy at the time of every frame, with what the detector had finished by then (Li et al., ECCV 2020). AP is "
    "that of every frame's own detections. A forecast moves the boxes to the time of the frame."
)
_AXES = ("run time of a frame (ms)", "sAP")


def _headline(report: VideoReport) -> str:
    metrics, best = report.tracks.metrics, report.streaming.best
    shown = [(number(metrics[name]), name) for name in ("HOTA", "IDF1", "MOTA")]
    return cards([*shown, (number(best.streaming["AP"]), "sAP"), (number(best.offline["AP"]), "AP of the frames")])


def _tracks_table(tracks: TrackEvaluation) -> str:
    counts = tracks.total.to_dict()
    names = [*tracks.metrics, *_COUNTS.values()]
    return table(names, [[*map(number, tracks.metrics.values()), *(str(counts[name]) for name in _COUNTS)]])


def _named(report: VideoReport) -> list[StreamedModel]:
    """The rows of both machines, each named by its machine."""
    here = [replace(one, name="this machine") for one in report.streaming.models]
    return [*here, *(replace(one, name="a slower machine") for one in report.slower.models)]


def _streaming_table(report: VideoReport) -> str:
    return table(("machine", *COLUMNS[1:]), [cells(one) for one in _named(report)])


def _points(report: VideoReport) -> list[Point]:
    return [
        Point(f"{one.name}, forecast {one.forecast}", one.milliseconds["mean"], max(one.streaming["AP"], 0.0))
        for one in _named(report)
    ]
