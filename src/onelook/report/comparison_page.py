"""Writes a comparison as one HTML page, as CSV and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path

from onelook.evaluation.significance import LEVEL
from onelook.files import write_text
from onelook.report.charts import Change, Point, difference_chart, scatter_chart, signed
from onelook.report.comparison import (
    SIZES,
    ComparedModel,
    ComparedPair,
    Comparison,
    interval_text,
    number,
)
from onelook.report.html import document, facts_table, section, table
from onelook.report.page import ERROR_TYPES
from onelook.types import NOTHING

MAX_CLASSES_IN_CHART = 16  # the largest differences; all classes are in the table
HTML, JSON, MODELS, DIFFERENCES = "compare.html", "compare.json", "models.csv", "differences.csv"
_PUBLISHED_LEAD = (
    "As the authors print them: on COCO, and with the speeds of their own hardware, which cannot be compared with the "
    "times measured here."
)


def write_comparison(result: Comparison, folder: Path) -> Comparison:
    """Writes compare.html, compare.json, models.csv and differences.csv; returns the result with their paths."""
    written = replace(result, written=tuple(folder / name for name in (HTML, MODELS, DIFFERENCES, JSON)))
    texts = {
        HTML: render_comparison(written),
        MODELS: written.models_csv(),
        DIFFERENCES: written.differences_csv(),
        JSON: json.dumps(written.to_dict(), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return written


def render_comparison(result: Comparison) -> str:
    """The comparison as one HTML document, without scripts and links."""
    title = f"Comparison of {len(result.models)} models"
    sections = [
        section("Which is better", _sentences(result)),
        section("Models", _models_table(result)),
        section("Speed and accuracy", scatter_chart(_points(result), *_AXES), _chart_lead(result)),
        _streaming_section(result),
        *(_pair_section(result, pair) for pair in result.pairs if pair.first == result.models[0].name),
        section("Classes", _classes_table(result), "AP of every class."),
        _published_section(result),
        section("How it was measured", _facts(result)),
    ]
    return document(title, "".join(sections), lead=result.data)


_AXES = ("ms an image (p50)", "AP")


def _sentences(result: Comparison) -> str:
    found = "".join(
        f"<li>{'<b>' if pair.ap is not None and pair.ap.is_significant else '<span>'}{escape(words)}"
        f"{'</b>' if pair.ap is not None and pair.ap.is_significant else '</span>'}</li>"
        for pair, words in zip(result.pairs, result.sentences())
    )
    meaning = (
        f"In brackets: the {LEVEL:.0%} interval of the difference, from {result.resamples} resamples of the images, "
        "the same for all models. p: how probable a difference like this is between equal models. It is about these "
        "weights on images like these: another training of the same models would differ as well."
    )
    return f'<ul>{found}</ul><p class="lead" style="margin:8px 0 0">{escape(meaning)}</p>'


def model_cells(model: ComparedModel) -> tuple[str, ...]:
    """The cells of a model, in the order of `COLUMNS`."""
    memory = model.memory.get("device", model.memory.get("process"))
    return (
        model.name,
        number(model.stats["AP"]),
        interval_text(model.interval),
        number(model.stats["AP50"]),
        *(number(model.milliseconds[name], 2) for name in ("p50", "p90", "p99")),
        number(model.images_per_second, 1),
        NOTHING if model.parameters is None else f"{model.parameters / 1e6:.2f}",
        number(model.gflops, 2),
        NOTHING if memory is None else f"{memory / 2**20:.0f}",
        NOTHING if model.file_bytes is None else f"{model.file_bytes / 2**20:.1f}",
    )


COLUMNS = (
    "model",
    "AP",
    "95 %",
    "AP50",
    "p50 ms",
    "p90",
    "p99",
    "images/s",
    "M par.",
    "GFLOPs",
    "memory MB",
    "file MB",
)


def _models_table(result: Comparison) -> str:
    how = [
        (m.name, m.model, m.variant or NOTHING, f"{m.size[0]}x{m.size[1]}", m.runtime, m.device, m.precision)
        for m in result.models
    ]
    head = ("model", "given as", "built-in model", "input", "runtime", "device", "precision")
    sizes = [(m.name, *(number(m.stats[key]) for key in ("AP75", *SIZES, "AR100"))) for m in result.models]
    return (
        table(COLUMNS, [model_cells(model) for model in result.models])
        + "<details open><summary>More of AP, and what ran</summary>"
        + table(("model", "AP75", *(f"AP {size}" for size in SIZES.values()), "AR100"), sizes)
        + table(head, how, "plain")
        + "</details>"
    )


def _points(result: Comparison) -> list[Point]:
    """The measured AP of each model with its interval, followed by its published AP at the same measured time."""
    points = []
    for model in result.models:
        ap, x = model.stats["AP"], model.milliseconds["p50"]
        if ap >= 0:
            low, high = model.interval or (ap, ap)
            points.append(Point(model.name, x, ap, (max(0.0, ap - low), max(0.0, high - ap))))
            if model.published is not None and model.published.ap is not None:
                points.append(Point("published AP", x, model.published.ap, hollow=True))
    return points


def _chart_lead(result: Comparison) -> str:
    lead = f"Points: AP with its {LEVEL:.0%} interval, and the median time of one image, measured here in alternation."
    if any(point.hollow for point in _points(result)):
        lead += (
            " Rings: the AP that the authors of the weights publish, on COCO's images, drawn at the time measured here."
        )
    return lead


def streaming_cells(model: ComparedModel) -> tuple[str, ...]:
    """The cells of a model with streaming AP, in the order of `STREAMING_COLUMNS`."""
    return (
        model.name,
        *(number(model.streaming[name]) for name in ("AP", "AP50", *SIZES)),
        number(model.stats["AP"]),
        number(model.frame_ms, 2),
    )


STREAMING_COLUMNS = ("model", "sAP", "sAP50", "sAP_S", "sAP_M", "sAP_L", "AP", "frame ms")


def streaming_points(result: Comparison) -> list[Point]:
    """sAP of each model against the mean run time of a frame, and as rings its AP without regard to time."""
    points = []
    for model in result.models:
        if model.streaming and model.frame_ms is not None:
            points.append(Point(model.name, model.frame_ms, max(model.streaming["AP"], 0.0)))
            points.append(Point("offline AP", model.frame_ms, max(model.stats["AP"], 0.0), hollow=True))
    return points


def _streaming_section(result: Comparison) -> str:
    """Streaming AP against speed, where it was asked for."""
    points = streaming_points(result)
    if not points:
        return ""
    drawn = scatter_chart(points, "mean run time of a frame (ms)", "sAP")
    rows = table(STREAMING_COLUMNS, [streaming_cells(model) for model in result.models])
    lead = (
        "Streaming AP (Li et al., 2020): the detections that are finished at the time of each frame, on one device and "
        "without forecasts; the time is simulated from run times measured here. Rings: the AP without regard to time. "
        "The command onelook stream has forecasts and other schedules."
    )
    return section("Streaming AP and speed", rows + drawn, lead)


def _pair_section(result: Comparison, pair: ComparedPair) -> str:
    """The differences of a model from the first: classes, sizes of objects, types of error."""
    known = pair.class_intervals
    often = [name for name in pair.classes if known.get(name) is not None] or list(pair.classes)
    ranked = sorted(often, key=lambda name: -abs(pair.classes[name]))[:MAX_CLASSES_IN_CHART]
    ranked.sort(key=lambda name: -pair.classes[name])
    by_class = [Change(name, pair.classes[name], known.get(name)) for name in ranked]
    by_size = [Change(size, pair.stats[key]) for key, size in SIZES.items() if key in pair.stats]
    errors = [Change(words, pair.errors[kind]) for kind, words in ERROR_TYPES.items() if kind in pair.errors]
    right = difference_chart(by_size, "AP by size of objects") if by_size else ""
    right += difference_chart(errors, "AP50 lost to a type of error (less is better)") if errors else ""
    drawn = f"<div>{difference_chart(by_class, 'AP of classes')}</div><div>{right}</div>"
    shown = "" if len(pair.classes) <= len(ranked) else f" {len(ranked)} of {len(pair.classes)} classes."
    lead = (
        f"{pair.second} minus {pair.first}; time of one image: {pair.time:.2f} times.{shown} Intervals are of each "
        "class by itself, so that one in twenty differs by chance; classes in few images have none, and are in the "
        "table. Grey: zero is in the interval, or there is none."
    )
    return section(f"{pair.second} against {pair.first}", f'<div class="charts">{drawn}</div>', lead)


def _classes_table(result: Comparison) -> str:
    first = result.models[0]
    others = result.models[1:]
    head = ["class", *(model.name for model in result.models), *(f"{model.name} - {first.name}" for model in others)]
    rows = []
    for name in result.classes:
        cells = [number(model.per_class[name]["AP"]) for model in result.models]
        for pair in result.pairs[: len(others)]:  # those of the first model come first
            within = pair.class_intervals.get(name)
            value = signed(pair.classes[name]) if name in pair.classes else NOTHING
            cells.append(value if within is None else f"{value} [{signed(within[0])}, {signed(within[1])}]")
        rows.append([name, *cells])
    return table(head, rows)


def _published_section(result: Comparison) -> str:
    rows = []
    for model in result.models:
        if model.published is None:
            continue
        if model.published.ap is not None:
            where = f"COCO {model.published.split}"
            rows.append((model.name, "authors of the weights", where, f"AP {100 * model.published.ap:.1f}"))
        for row in model.published.rows:
            cells = ", ".join(f"{column} {cell}" for column, cell in row["cells"].items() if cell not in ("", "-"))
            rows.append((model.name, row["source"], row["setting"], cells))
    if not rows:
        return ""
    figures = table(("model", "source", "setting", "figures"), rows, "plain")
    return section("Published figures", figures, _PUBLISHED_LEAD)


def _facts(result: Comparison) -> str:
    notes = [*result.notes, *(f"{model.name}: {note}" for model in result.models for note in model.notes)]
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return facts_table(result.facts) + (f"<ul>{listed}</ul>" if listed else "")
