"""Renders `report.html`: training curves, metrics, errors, example images and the recipe of a run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from onelook.evaluation.coco import RECALLS, Evaluation
from onelook.evaluation.operating import CALIBRATED_FROM
from onelook.files import write_text
from onelook.report.advice import Advice
from onelook.report.charts import Series, bar_chart, heatmap, line_chart
from onelook.report.html import cards, document, facts_table, section
from onelook.types import NOTHING

MAX_CLASSES_SIDE_BY_SIDE = 9  # rows of a confusion matrix that is placed beside the kinds of error
MAX_CLASS_LINES = 10  # classes with a line of their own; more are drawn as faint lines behind their mean

ERROR_TYPES = {  # of `Evaluation.error_types`
    "Cls": "wrong class",
    "Loc": "wrong place",
    "Both": "both wrong",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


@dataclass(frozen=True, eq=False)
class ReportImage:
    """An image of the report: JPEG bytes and its caption."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True, eq=False)
class Report:
    """The content of a report.

    history: rows of metrics.csv, one an epoch, numbers as floats.  worst, best: evaluated images with their
    detections.  recipe_text: the recipe; "" where there is none to show.  changes: (path, published, here).  facts:
    hardware, time, files.  advice: what to do next; None where it was not asked for.
    """

    title: str
    history: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    facts: Mapping[str, str]
    recipe_text: str = ""
    changes: Sequence[tuple[str, str, str]] = ()
    first_batch: ReportImage | None = None
    worst: Sequence[ReportImage] = field(default_factory=list)
    best: Sequence[ReportImage] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)
    advice: Sequence[Advice] | None = None


def render(report: Report) -> str:
    """The report as one HTML document with embedded style and images, without scripts and links."""
    sections = [
        _summary_section(report),
        _advice_section(report.advice),
        curves_section(report.history),
        *_quality_sections(report.evaluation),
        _images_section(
            "Worst images",
            "Lowest F1 at IoU 0.5. Green: annotated. Other colours: detected.",
            report.worst,
        ),
        _images_section("Best images", "Highest F1 at IoU 0.5, those with the most objects first.", report.best),
        _images_section(
            "First training batch",
            "The input of the network in the first step.",
            [report.first_batch] if report.first_batch else [],
            whole=True,
        ),
        _recipe_section(report) if report.recipe_text else "",
    ]
    return document(report.title, "".join(sections))


def write_report(path: Path, report: Report) -> Path:
    """Writes the report into a file, atomically."""
    write_text(path, render(report))
    return path


def _summary_section(report: Report) -> str:
    top = ""
    if report.evaluation is not None:
        stats = report.evaluation.stats
        shown = [
            ("AP", "AP"),
            ("AP50", "AP50"),
            ("AP75", "AP75"),
            ("APs", "small"),
            ("APm", "medium"),
            ("APl", "large"),
        ]
        top = cards([(_score(stats[key]), label) for key, label in shown])
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return f"<section>{top}{facts_table(report.facts)}{f'<ul>{notes}</ul>' if notes else ''}</section>"


def _advice_section(advice: Sequence[Advice] | None) -> str:
    if advice is None:
        return ""
    if not advice:
        return section(
            "What to do next",
            "<p>No figure of this training suggests a change: no class stands out as weak, few labels are in doubt, "
            "small objects are not much worse than large ones, and AP no longer rises.</p>",
        )
    rows = "".join(
        f"<tr><td><b>{escape(one.action)}</b><br>{escape(one.reason)}</td><td>{escape(one.figure)}</td></tr>"
        for one in advice
    )
    head = "<tr><th>advice</th><th>the figure that suggests it</th></tr>"
    return section("What to do next", f'<table class="advice">{head}{rows}</table>')


def curves_section(history: Sequence[Mapping[str, Any]]) -> str:
    """Losses, average precision and learning rate of a training. history: rows of metrics.csv."""
    if not history:
        return ""
    epochs = [float(row["epoch"]) for row in history]
    keys = list(dict.fromkeys(key for row in history for key in row))
    losses = [
        Series(key.removeprefix("loss/"), epochs, _column_values(history, key))
        for key in keys
        if key.startswith("loss/")
    ]
    charts = []
    if losses:
        charts.append(line_chart(losses, "epoch", "loss", whole=True))
    if scores := score_chart(history):
        charts.append(scores)
    if "lr" in keys:
        rate = Series("learning rate", epochs, _column_values(history, "lr"))
        charts.append(line_chart([rate], "epoch", "learning rate", whole=True))
    return section("Training", _row(charts))


def score_chart(history: Sequence[Mapping[str, Any]]) -> str:
    """The metrics of the evaluated epochs as a chart; "" before the first. history: rows of metrics.csv."""
    epochs = [float(row["epoch"]) for row in history]
    for label, names in (("average precision", ("AP", "AP50", "AP75")), ("right images", ("top1", "top5"))):
        scores = _joined([Series(name, epochs, _column_values(history, name)) for name in names])
        if scores:
            return line_chart(scores, "epoch", label, y_range=(0.0, 1.0), whole=True)
    return ""


def _column_values(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A column of metrics.csv as numbers, NaN where a row has none."""
    return [float(row[name]) if row.get(name) not in (None, "") else float("nan") for row in history]


def _joined(scores: Sequence[Series]) -> list[Series]:
    """Removes epochs without an evaluation, so that lines connect the evaluated ones."""
    joined = []
    for series in scores:
        known = np.isfinite(np.asarray(series.ys))
        if known.any():
            joined.append(Series(series.name, np.asarray(series.xs)[known], np.asarray(series.ys)[known]))
    return joined


def _quality_sections(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return []
    f1 = evaluation.f1_curve
    names = list(evaluation.per_class)
    precision = evaluation.precision_recall()
    pr_lines = _class_lines(names, RECALLS, np.where(precision < 0, np.nan, precision))
    f1_lines = _class_lines(names, f1.confidence, f1.f1)
    unit = (0.0, 1.0)
    mark = None if evaluation.finds_nothing else (f1.best_confidence, f"best {f1.best_confidence:.2f}")
    curves = [
        line_chart(pr_lines, "recall", "precision at IoU 0.5", x_range=unit, y_range=unit),
        line_chart(f1_lines, "confidence", "F1 at IoU 0.5", mark=mark, x_range=unit, y_range=unit),
    ]
    errors = evaluation.error_types
    known = [kind for kind in ERROR_TYPES if kind in errors.gain]
    bars = bar_chart(
        [ERROR_TYPES[k] for k in known],
        [max(0.0, errors.gain[k]) for k in known],
        "AP50 gained if these errors were corrected",
    )
    confusion = evaluation.confusion(confidence=f1.best_confidence)
    labels = [*names, "background"]
    matrix = heatmap(confusion.matrix, labels, labels, "annotated", "detected")
    lead = f"At confidence {f1.best_confidence:.2f}, where the mean F1 is highest ({f1.best_f1:.3f})."
    lead = "Of all detections: none is right at any confidence." if evaluation.finds_nothing else lead
    errors_part = section("Kinds of error", bars, "TIDE (Bolya et al. 2020).")
    confusion_part = section("Confusion", f'<div class="wide">{matrix}</div>', lead)
    beside = len(labels) <= MAX_CLASSES_SIDE_BY_SIDE
    return [
        section("Classes", _class_table(evaluation)),
        section("Precision, recall, confidence", _row(curves)),
        *_threshold_sections(evaluation),
        f'<div class="beside">{errors_part}{confusion_part}</div>' if beside else errors_part + confusion_part,
    ]


def _threshold_sections(evaluation: Evaluation) -> list[str]:
    """Operating points and calibration, side by side; nothing without objects and detections."""
    calibration = evaluation.calibration
    if not evaluation.objects.any() or not calibration.bins:
        return []
    rows = []
    for point in evaluation.operating_points():
        known = (point.confidence, point.precision, point.f1)
        cells = "".join(f"<td>{NOTHING if value is None else f'{value:.3f}'}</td>" for value in known)
        rows.append(f"<tr><td>{point.recall_target:.2f}</td>{cells}</tr>")
    head = "<tr><th>recall</th><th>confidence</th><th>precision</th><th>F1</th></tr>"
    table = f'<table class="numbers">{head}{"".join(rows)}</table>'
    bins = calibration.bins
    lines = [
        Series("detections", [one.confidence for one in bins], [one.precision for one in bins]),
        Series("perfectly calibrated", [0.0, 1.0], [0.0, 1.0]),
    ]
    unit = (0.0, 1.0)
    chart = line_chart(lines, "mean confidence", "precision at IoU 0.5", x_range=unit, y_range=unit)
    points_lead = "The highest confidence that reaches a recall at IoU 0.5, all classes together."
    lead = (
        f"Expected calibration error {calibration.error:.3f}, of detections from {CALIBRATED_FROM} on in bins of 0.1. "
        "Below the diagonal a detector is too sure of itself."
    )
    parts = section("Operating points", table, points_lead) + section("Calibration", chart, lead)
    return [f'<div class="beside">{parts}</div>']


def _class_lines(names: Sequence[str], xs: np.ndarray, rows: np.ndarray) -> list[Series]:
    defined = [index for index in range(len(names)) if np.isfinite(rows[index]).any()]
    if not defined:
        return []
    mean = Series("mean of the classes", xs, np.nanmean(rows[defined], 0))
    many = len(defined) > MAX_CLASS_LINES
    return [*(Series(names[i], xs, rows[i], faint=many) for i in defined), mean]


def _class_table(evaluation: Evaluation) -> str:
    head = "<tr><th>class</th><th>objects</th><th>AP</th><th>AP50</th>"
    head += "<th>small</th><th>medium</th><th>large</th></tr>"
    rows = []
    for index, (name, scores) in enumerate(evaluation.per_class.items()):
        share = max(scores["AP"], 0.0)
        sizes = "".join(f"<td>{_score(value)}</td>" for value in evaluation.by_size[name].values())
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{int(evaluation.objects[index])}</td>"
            f'<td class="bar"><i style="width:{share * 70:.0f}%"></i><span>{_score(scores["AP"])}</span></td>'
            f"<td>{_score(scores['AP50'])}</td>{sizes}</tr>"
        )
    stats = evaluation.stats
    rest = "".join(f"<tr><th>{key}</th><td>{_score(value)}</td></tr>" for key, value in stats.items())
    return (
        f'<div class="columns"><table class="numbers">{head}{"".join(rows)}</table>'
        f'<table class="numbers narrow"><tr><th colspan="2">all twelve numbers</th></tr>{rest}</table></div>'
    )


def _images_section(title: str, lead: str, images: Sequence[ReportImage], *, whole: bool = False) -> str:
    if not images:
        return ""
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(p.jpeg).decode()}">'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in images
    )
    return section(title, f'<div class="{"whole" if whole else "images"}">{figures}</div>', lead)


def _recipe_section(report: Report) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(path)}</code></td><td>{escape(before)}</td><td>{escape(after)}</td></tr>"
        for path, before, after in report.changes
    )
    table = f"<table><tr><th>setting</th><th>published</th><th>here</th></tr>{rows}</table>"
    changes = table if report.changes else "<p>Exactly the published recipe.</p>"
    text = f"<details><summary>The whole recipe</summary><pre>{escape(report.recipe_text)}</pre></details>"
    return section("Recipe", changes + text, "Settings that differ from the published training.")


def _row(charts: Sequence[str]) -> str:
    return '<div class="charts">' + "".join(f"<div>{chart}</div>" for chart in charts) + "</div>"


def _score(value: float) -> str:
    return NOTHING if value < 0 else f"{value:.3f}"
