"""The result of `onelook stream`: streaming AP of models, as text, CSV, JSON and a chart."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from onelook.files import write_text
from onelook.report.charts import Point
from onelook.report.comparison import number
from onelook.report.scatter_png import write_scatter_png
from onelook.types import text_repr

STREAMING_STATS = {"AP": "sAP", "AP50": "sAP50", "AP75": "sAP75", "APs": "sAP_S", "APm": "sAP_M", "APl": "sAP_L"}
"""The names of the streaming numbers, by those of COCO."""
COLUMNS = ("model", "forecast", "sAP", *tuple(STREAMING_STATS.values())[1:], "AP", "ms", "processed", "missed", "age")


@dataclass(frozen=True)
class StreamedModel:
    """Streaming AP of one model with one forecast.

    name: in the tables.  model: what was given.  runtime, device, precision: what it ran with.  size: (height, width)
    of the input.  forecast: "none", "linear" or "kalman".  streaming: the twelve COCO numbers under streaming.
    offline: the same of every frame's own detections, without regard to time.  milliseconds: run time of a frame, from
    decoded image to boxes: mean, p50, p90, p99.  frames: of all sequences.  processed: outputs of the simulation.
    missed: frames before the first output.  in_time: frames that are shown with their own output.  mismatch: sum of the
    ages of the shown outputs, in frames.
    """

    name: str
    model: str
    runtime: str
    device: str
    precision: str
    size: tuple[int, int]
    forecast: str
    streaming: Mapping[str, float]
    offline: Mapping[str, float]
    milliseconds: Mapping[str, float]
    frames: int
    processed: int
    missed: int
    in_time: int
    mismatch: int

    @property
    def age(self) -> float | None:
        """Mean age of the shown outputs, in frames; None where there is none."""
        shown = self.frames - self.missed
        return self.mismatch / shown if shown else None


@dataclass(frozen=True, eq=False)
class Streaming:
    """Streaming AP of models on one data set.

    data: what was evaluated on.  frames, sequences: how many.  fps: frames a second.  models: in the order given, each
    with every forecast.  facts: conditions of the measurement, by name.  notes: what the numbers leave out or assume.
    written: the files that hold the result.
    """

    data: str
    frames: int
    sequences: int
    fps: float
    models: tuple[StreamedModel, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()

    @property
    def best(self) -> StreamedModel:
        """The model and forecast with the highest sAP; of equals the faster."""
        return max(self.models, key=lambda one: (one.streaming["AP"], -one.milliseconds["mean"]))

    def recommendation(self) -> str:
        """Which model and forecast to use, in a sentence."""
        best = self.best
        if best.streaming["AP"] < 0:
            return "No recommendation: sAP is undefined, as no object counts."
        how = "" if best.forecast == "none" else f" with forecast {best.forecast}"
        frame = 1000 / self.fps
        fits = "within" if best.milliseconds["p90"] <= frame else "longer than"
        return (
            f"Highest sAP: {best.name}{how}, {number(best.streaming['AP'])} (offline AP {number(best.offline['AP'])}); "
            f"90 % of its runs take at most {best.milliseconds['p90']:.1f} ms, {fits} a frame of {frame:.1f} ms."
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        plain = asdict(self)
        for row, model in zip(plain["models"], self.models):
            row["streaming"] = {
                STREAMING_STATS.get(name, f"s{name}"): value for name, value in row["streaming"].items()
            }
            row["age"] = model.age
            # As the official toolkit reports them.
            row["mismatch_average"] = model.mismatch / model.processed if model.processed else None
            row["in_time_average"] = model.in_time / model.processed if model.processed else None
        plain["recommendation"] = self.recommendation()
        plain["written"] = [str(path) for path in self.written]
        return plain

    def to_csv(self) -> str:
        """One row for each model and forecast, with all numbers at full precision; empty cells are undefined."""
        text = io.StringIO()
        rows = [_row(model) for model in self.models]
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    __repr__ = text_repr

    def __str__(self) -> str:
        lines = [f"{self.frames} frames in {self.sequences} sequences at {self.fps:g} frames a second"]
        lines += [
            f"{one.name}, forecast {one.forecast}: sAP {number(one.streaming['AP'])}, AP {number(one.offline['AP'])}, "
            f"{one.milliseconds['mean']:.1f} ms"
            for one in self.models
        ]
        return "\n".join([*lines, self.recommendation()])


def cells(model: StreamedModel) -> tuple[str, ...]:
    """One row of the table of `COLUMNS`."""
    return (
        model.name,
        model.forecast,
        *(number(model.streaming[name]) for name in STREAMING_STATS),
        number(model.offline["AP"]),
        f"{model.milliseconds['mean']:.1f}",
        str(model.processed),
        str(model.missed),
        number(model.age, 2),
    )


def chart_points(result: Streaming) -> list[Point]:
    """sAP against the mean run time, and as rings the AP without regard to time."""
    points, offline = [], set()
    for one in result.models:
        milliseconds = one.milliseconds["mean"]
        name = one.name if one.forecast == "none" else f"{one.name}, {one.forecast}"
        points.append(Point(name, milliseconds, max(one.streaming["AP"], 0.0)))
        if one.name not in offline:
            offline.add(one.name)
            points.append(Point(f"{one.name}, offline AP", milliseconds, max(one.offline["AP"], 0.0), hollow=True))
    return points


def write_streaming(result: Streaming, folder: Path) -> Streaming:
    """Writes streaming.json, .csv and .png into the folder; returns the result with their paths."""
    written = tuple(folder / f"streaming.{suffix}" for suffix in ("json", "csv", "png"))
    result = replace(result, written=(*written, *result.written))
    write_text(written[0], json.dumps(result.to_dict(), indent=1) + "\n")
    write_text(written[1], result.to_csv())
    write_scatter_png(written[2], chart_points(result), "mean run time of a frame (ms)", "sAP")
    return result


def _row(model: StreamedModel) -> dict[str, Any]:
    numbers = {STREAMING_STATS.get(name, f"s{name}"): value for name, value in model.streaming.items()}
    numbers |= {f"offline_{name}": value for name, value in model.offline.items()}
    return {
        "name": model.name,
        "model": model.model,
        "forecast": model.forecast,
        **{name: "" if value < 0 else value for name, value in numbers.items()},
        **{f"ms_{name}": value for name, value in model.milliseconds.items()},
        "frames": model.frames,
        "processed": model.processed,
        "missed": model.missed,
        "in_time": model.in_time,
        "mismatch": model.mismatch,
        "height": model.size[0],
        "width": model.size[1],
        "runtime": model.runtime,
        "device": model.device,
        "precision": model.precision,
    }
