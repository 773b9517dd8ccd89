"""Writes the report of an exported file as one HTML page: differences from PyTorch, AP, latency, how to run it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from onelook.exporting.accuracy import Int8Report
from onelook.exporting.differences import Differences, OutputDifference
from onelook.exporting.verify import difference_text
from onelook.files import write_text
from onelook.report.charts import Series, line_chart
from onelook.report.html import cards, document, facts_table, section, table
from onelook.report.style import STYLE
from onelook.types import NOTHING

PERCENTILES = (50, 90, 99)
_TITLES = {"onnx": "ONNX", "openvino": "OpenVINO", "litert": "LiteRT", "torch": "PyTorch", "tensorrt": "TensorRT"}
_STYLE = (
    STYLE
    + "ul { margin: 10px 0 0; padding-left: 20px; } ol { overflow-wrap: anywhere; }"
    + ".numbers td { white-space: nowrap; } .numbers td:first-child { white-space: normal; min-width: 128px; }"
    + ".charts { grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); }"
    + ".command { margin: 12px 0 4px; } .command + pre { margin: 0; }"
)


@dataclass(frozen=True)
class MeasuredAp:
    """The AP of a file or network, on the same images as the others. stats: those of an `Evaluation`."""

    name: str
    stats: Mapping[str, float]


@dataclass(frozen=True)
class MeasuredTime:
    """The time of one batch, in alternation with the others of as many threads.

    threads: None on a GPU.  seconds: of each run, in order.
    """

    name: str
    threads: int | None
    seconds: Sequence[float]

    def milliseconds(self, percentile: float) -> float:
        """A percentile of the times."""
        return float(np.percentile(np.asarray(self.seconds) * 1e3, percentile))


@dataclass(frozen=True)
class DeploymentReport:
    """The content of the report of an exported file.

    metadata: of the file, as plain data.  files: (name, bytes).  verified: how the export was verified, as a sentence.
    judged_on: the images of `ap`, or why there are none.  timed: what the times are of.  int8: of an 8-bit file.
    commands: (what it does, the command or program).  facts: versions and processor.
    """

    path: Path
    target: str
    metadata: Mapping[str, Any]
    files: Sequence[tuple[str, int]]
    verified: str
    differences: Differences
    ap: Sequence[MeasuredAp]
    judged_on: str
    times: Sequence[MeasuredTime]
    timed: str
    int8: Int8Report | None
    commands: Sequence[tuple[str, str]]
    facts: Mapping[str, str]
    notes: Sequence[str]


def write_deployment(path: Path, report: DeploymentReport) -> Path:
    """Writes the page into a file, atomically."""
    write_text(path, render_deployment(report))
    return path


def render_deployment(report: DeploymentReport) -> str:
    """The report as one HTML document with embedded style and charts, without scripts and links."""
    title = f"{report.metadata['model']} for {_TITLES.get(report.target, report.target)}"
    sections = [
        f"<section>{_cards(report)}{_file_facts(report)}{_list(report.notes)}</section>",
        _differences_section(report.differences, report.verified),
        _ap_section(report),
        _latency_section(report),
        "" if report.int8 is None else _int8_section(report.int8, report.metadata["int8"] or {}),
        section("How to run it", "".join(_command(what, text) for what, text in report.commands)),
        section("Where this was measured", facts_table(report.facts)),
    ]
    return document(title, "".join(sections), style=_STYLE)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _command(what: str, text: str) -> str:
    return f'<p class="command">{escape(what)}</p><pre>{escape(text)}</pre>'


def _cards(report: DeploymentReport) -> str:
    shown = [(f"{sum(size for _, size in report.files) / 1e6:.1f} MB", "all files")]
    if report.ap:
        shown.append((f"{report.ap[0].stats['AP']:.4f}", "AP of the file"))
    if report.times:
        first = report.times[0]
        shown.append((f"{first.milliseconds(50):.1f} ms", f"p50, {_threads(first)}"))
    for one, label in _headlines(report):
        shown.append((f"{_number(one.largest)} {one.unit}".strip(), label))
    return cards(shown)


def _headlines(report: DeploymentReport) -> list[tuple[OutputDifference, str]]:
    """The largest differences that the page begins with: of boxes that would be detections, and of scores."""
    outputs = [one for one in report.differences.outputs if one.count]
    box = [one for one in outputs if one.unit == "px"][:1]
    score = [one for one in outputs if one.output.startswith("scores")][:1]
    return [
        *((one, "largest difference of a box") for one in box),
        *((one, "largest difference of a score") for one in score),
    ]


def _file_facts(report: DeploymentReport) -> str:
    data = report.metadata
    height, width = data["size"]
    nms = data["nms"]
    if nms is None:
        output = "boxes and class scores of all rows; NMS is done outside of the file"
    else:
        output = f"at most {nms['limit']} detections an image: confidence {nms['confidence']:g}, IoU {nms['iou']:g}"
    frame = data["frame"].get("type", "")
    return facts_table(
        {
            "file": ", ".join(f"{name} ({size:,} bytes)" for name, size in report.files),
            "precision": data["precision"],
            "input": f"{data['batch'] or 'any'} x 3 x {height} x {width}, float32, RGB, 0..255; {frame.lower()}",
            "output": output,
            "classes": f"{data['num_classes']}{': ' + ', '.join(data['names'][:12]) if data['names'] else ''}"
            + (" ..." if len(data["names"]) > 12 else ""),
        }
    )


def _differences_section(differences: Differences, verified: str) -> str:
    head = ("output", "numbers compared", "largest", "mean", "p50", "p99")
    rows = []
    for one in differences.outputs:
        numbers = [_number(value) for value in (one.largest, one.mean, one.p50, one.p99)]
        rows.append((f"{one.output}{' (' + one.unit + ')' if one.unit else ''}", f"{one.count:,}", *numbers))
    images = table(
        ("image", "largest box difference (px)", "largest score difference"),
        [(one.image, _number(one.box), _number(one.score)) for one in differences.images],
    )
    body = (
        f"{table(head, rows)}{_list(differences.notes)}<details><summary>By image</summary>{images}</details>"
        f'<p class="lead" style="margin:14px 0 0">{escape(verified)}</p>'
    )
    lead = (
        f"Absolute differences from the network in PyTorch in float32, on {differences.source}. Boxes are in pixels of"
        " the input, cut to the image."
    )
    return section("Differences from PyTorch", body, lead)


def _ap_section(report: DeploymentReport) -> str:
    if not report.ap:
        return section("Average precision", f"<p>{escape(report.judged_on)}</p>")
    columns = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "small", "APm": "medium", "APl": "large"}
    known = [key for key in columns if all(key in one.stats for one in report.ap)]
    first = report.ap[0].stats["AP"]
    rows = []
    for one in report.ap:
        values = [NOTHING if one.stats[key] < 0 else f"{one.stats[key]:.4f}" for key in known]
        gap = NOTHING if one is report.ap[0] else _gap(first, one.stats["AP"])
        rows.append((one.name, *values, gap))
    head = ("", *(columns[key] for key in known), "file minus this")
    return section(
        "Average precision", table(head, rows), f"COCO protocol, each in its own runtime. {report.judged_on}"
    )


def _latency_section(report: DeploymentReport) -> str:
    rows, charts = [], []
    for threads in dict.fromkeys(one.threads for one in report.times):
        group = [one for one in report.times if one.threads == threads]
        fastest = group[0].milliseconds(50)
        for one in group:
            times = [f"{one.milliseconds(share):.2f}" for share in PERCENTILES]
            ratio = f"{one.milliseconds(50) / fastest:.2f}"
            rows.append((one.name, _threads(one), str(len(one.seconds)), *times, ratio))
        lines = [
            Series(one.name, np.arange(101), np.percentile(np.asarray(one.seconds) * 1e3, np.arange(101)))
            for one in group
        ]
        charts.append(line_chart(lines, f"percentile, {_threads(group[0])}", "ms", x_range=(0.0, 100.0)))
    head = ("", "on", "runs", "p50 ms", "p90 ms", "p99 ms", "p50 against the file")
    drawn = "".join(f"<div>{chart}</div>" for chart in charts)
    return section(
        "Latency", f'{table(head, rows)}<div class="charts" style="margin-top:14px">{drawn}</div>', report.timed
    )


def _int8_section(report: Int8Report, described: Mapping[str, Any]) -> str:
    compared = report.comparison
    trials = [(str(one.kept), f"{one.ap:.4f}", _gap(one.ap, report.ap_float)) for one in report.trials]
    facts = {
        "in 8 bits": f"{report.convolutions - len(report.kept)} of {report.convolutions} convolutions",
        "ranges from": f"{described.get('calibration_images')} images of {described.get('calibrated_on')}",
        "judged on": str(described.get("judged_on")),
        "AP": f"{report.ap:.4f}; {report.ap_float:.4f} of the float file",
        "median time": f"{compared.int8_ms:.2f} ms; {compared.float_ms:.2f} ms of the float file, at one thread in"
        f" alternation: {compared.int8_ms / compared.float_ms:.2f} of it",
        "float file": f"{compared.float_bytes / 1e6:.1f} MB",
        "fingerprint of the images": str(described.get("calibration_sha256")),
    }
    names = "".join(f"<li><code>{escape(name)}</code></li>" for name in report.kept)
    kept = (
        f"<details open><summary>Convolutions in float, the most costly first</summary><ol>{names}</ol></details>"
        if names
        else "<p>No convolution had to stay in float, besides the head's last ones.</p>"
    )
    body = facts_table(facts) + kept + table(("convolutions kept in float", "AP", "against float"), trials)
    return section("8 bits", body, "The head's last convolutions and the decoding of boxes are always in float.")


def _threads(one: MeasuredTime) -> str:
    return "on the GPU" if one.threads is None else f"{one.threads} thread{'s' * (one.threads > 1)}"


def _gap(one: float, other: float) -> str:
    """The difference of two APs, with a sign; without a meaning where one of them is undefined."""
    return NOTHING if min(one, other) < 0 else f"{round(one - other, 4) + 0.0:+.4f}"


def _number(value: float) -> str:
    """A difference as the export prints it; a dash for an unknown one."""
    return NOTHING if math.isnan(value) else difference_text(value)


def command(*words: str) -> str:
    """A shell line of these words."""
    return shlex.join(words)
