"""The result of a comparison of models: what was measured of each, and which pairs differ."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onelook.evaluation.significance import Difference
from onelook.report.charts import signed
from onelook.types import NOTHING, UNDEFINED, text_repr

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}  # under 32^2, up to 96^2, over 96^2 square pixels
Interval = tuple[float, float]


@dataclass(frozen=True)
class PublishedFigures:
    """What is published of a model. Its times are of other hardware, and are only shown as they are printed.

    ap: 0..1, on COCO's images `split`.  rows: rows of the papers' tables: source, setting, and cells by column.
    """

    ap: float | None
    split: str
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ComparedModel:
    """What was measured of one model.

    name: in the tables.  model: what was given.  variant: the built-in model that it is, "" for others.
    runtime, device, precision: what it ran with.  size: (height, width) of the input.  stats: AP and the other eleven
    numbers of `Evaluation`.  interval: of AP, 95 %; None where AP is undefined.  per_class: class -> AP, AP50 and the
    AP of its small, medium and large objects.  class_intervals: class -> 95 % interval of its AP, None for a class in
    few images.  errors: AP50 lost to each type of error.  milliseconds: of one image, from its resized pixels to boxes:
    mean, p50, p90, p99.
    images_per_second: in batches.  parameters, gflops: of the deploy form; None where they are unknown.  file_bytes: of
    the weights or exported file; None for a detector in memory.  memory: bytes, at most, of a process that runs only
    this model ("process"), of what the model adds to it ("model"), and on a GPU ("device"); empty where it was not
    measured.  published: None where nothing is, or where it is of other classes or another input size.  notes: what to
    know of the numbers.  streaming: the twelve COCO numbers under streaming, without forecasts, and frame_ms: mean run
    time of a frame, from decoded image to boxes; empty and None where it was not asked for.
    """

    name: str
    model: str
    variant: str
    runtime: str
    device: str
    precision: str
    size: tuple[int, int]
    stats: Mapping[str, float]
    interval: Interval | None
    per_class: Mapping[str, Mapping[str, float]]
    class_intervals: Mapping[str, Interval | None]
    errors: Mapping[str, float]
    milliseconds: Mapping[str, float]
    images_per_second: float
    parameters: int | None = None
    gflops: float | None = None
    file_bytes: int | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    published: PublishedFigures | None = None
    notes: tuple[str, ...] = ()
    streaming: Mapping[str, float] = field(default_factory=dict)
    frame_ms: float | None = None


@dataclass(frozen=True)
class ComparedPair:
    """How a second model differs from a first.

    ap: None where AP is undefined.  stats, classes, errors: the second's number minus the first's, where both are
    defined.  class_intervals: 95 % intervals of the classes' AP, each class by itself.  time: p50 of the second over
    that of the first.
    """

    first: str
    second: str
    ap: Difference | None
    stats: Mapping[str, float]
    classes: Mapping[str, float]
    class_intervals: Mapping[str, Interval | None]
    errors: Mapping[str, float]
    time: float

    def sentence(self, comparisons: int = 1) -> str:
        """Whether the second is better, in words. comparisons: how many pairs there are."""
        found = self.ap
        if found is None:
            return f"{self.second} and {self.first} cannot be compared: AP is undefined on this data."
        p = f"p {_p(found.p)}"
        if comparisons > 1:
            p += f", {_p(found.adjusted)} among {comparisons} comparisons"
        numbers = f"{signed(found.value)} AP [{signed(found.low)}, {signed(found.high)}], {p}"
        if not found.is_significant:
            return f"No difference can be told between {self.second} and {self.first}: {numbers}"
        return f"{self.second} is {'better' if found.value > 0 else 'worse'} than {self.first}: {numbers}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models compared on one data set and one machine.

    data: what was evaluated on.  images, objects: how many.  classes: their names.  models: in the order given.
    pairs: every two models, the earlier one first.  resamples: of the bootstrap.  facts: conditions of the measurement,
    by name.  notes: what the numbers leave out or assume.  written: the files that hold the result.
    """

    data: str
    images: int
    objects: int
    classes: tuple[str, ...]
    models: tuple[ComparedModel, ...]
    pairs: tuple[ComparedPair, ...]
    resamples: int
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()

    def sentences(self) -> list[str]:
        """For each pair, whether one is better."""
        return [pair.sentence(len(self.pairs)) for pair in self.pairs]

    def rows(self) -> list[dict[str, Any]]:
        """The models as rows of a table, one value a column; None where something is unknown."""
        return [_row(model) for model in self.models]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        plain = asdict(self)
        for pair, words in zip(plain["pairs"], self.sentences()):
            pair["sentence"] = words
        plain["written"] = [str(path) for path in self.written]
        return plain

    def models_csv(self) -> str:
        """The models as CSV, with all numbers at full precision."""
        return _csv(self.rows())

    def differences_csv(self) -> str:
        """The pairs as CSV."""
        rows = []
        for pair, words in zip(self.pairs, self.sentences()):
            row: dict[str, Any] = {"first": pair.first, "second": pair.second}
            numbers = {} if pair.ap is None else asdict(pair.ap)
            row |= {f"AP_{name}": numbers.get(name) for name in ("value", "low", "high", "p", "adjusted")}
            row |= {f"{name}_difference": pair.stats.get(name) for name in ("AP50", "AP75", *SIZES)}
            rows.append(row | {"time_ratio": pair.time, "sentence": words})
        return _csv(rows)

    __repr__ = text_repr

    def __str__(self) -> str:
        lines = [f"{self.images} images, {self.objects} objects"]
        for model in self.models:
            ap, low_high = number(model.stats["AP"]), interval_text(model.interval)
            streamed = f", sAP {number(model.streaming['AP'])}" if model.streaming else ""
            lines.append(f"{model.name}: AP {ap} {low_high}, {model.milliseconds['p50']:.2f} ms an image{streamed}")
        return "\n".join([*lines, *self.sentences()])


def differences_of(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The second's numbers minus the first's, of those that both define."""
    return {
        name: second[name] - value for name, value in first.items() if UNDEFINED not in (value, second.get(name, -1.0))
    }


def number(value: float | None, digits: int = 3) -> str:
    """A number as text; a dash where it is unknown or, as COCO writes it, -1."""
    return NOTHING if value is None or value == UNDEFINED else f"{value:,.{digits}f}"


def interval_text(value: Interval | None) -> str:
    """An interval as text."""
    return NOTHING if value is None else f"[{value[0]:.3f}, {value[1]:.3f}]"


def _row(model: ComparedModel) -> dict[str, Any]:
    low, high = model.interval or (None, None)
    defined = {name: None if value == UNDEFINED else value for name, value in model.stats.items()}
    published = model.published
    streamed = {f"s{name}": None if value == UNDEFINED else value for name, value in model.streaming.items()}
    return {
        "name": model.name,
        "model": model.model,
        "variant": model.variant,
        **{"AP": defined.pop("AP"), "AP_low": low, "AP_high": high},
        **defined,
        **streamed,
        **({"ms_frame": model.frame_ms} if streamed else {}),
        **{f"ms_{name}": value for name, value in model.milliseconds.items()},
        "images_per_second": model.images_per_second,
        "parameters": model.parameters,
        "gflops": model.gflops,
        "file_bytes": model.file_bytes,
        "memory_bytes": model.memory.get("device", model.memory.get("process")),
        "height": model.size[0],
        "width": model.size[1],
        "runtime": model.runtime,
        "device": model.device,
        "precision": model.precision,
        "published_AP": None if published is None else published.ap,
        "published_on": "" if published is None or published.ap is None else published.split,
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow("" if value is None else value for value in row.values())
    return text.getvalue()


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"
