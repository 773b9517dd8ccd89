"""An ablation table of a paper as a value: recipes, each of which changes one setting of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch

from onelook.config import change
from onelook.errors import ConfigError, did_you_mean
from onelook.networks.deploy import deploy
from onelook.networks.detector import Architecture
from onelook.networks.flops import count_gflops, count_merged, count_parameters, count_profiler_gflops
from onelook.training.recipe import Recipe

Counts = Literal["convolutions", "biases", "profiler", "merged", "affine"]
# How parameters and GFLOPs are counted, as text for users.
COUNTS = {
    "convolutions": "of the training form; 2 for every multiply-add of the deploy form's convolutions",
    "biases": "of the deploy form; 2 for every multiply-add of its convolutions and every bias that is added",
    "profiler": "of the training form, counted as the profiler thop does: batch norm and leaky ReLU too",
    "merged": "of the form with merged RepConvs, counted as the profiler thop does: batch norm too",
    "affine": "of the form with merged RepConvs, counted as later versions of thop do: batch norm twice",
}


# Metrics of an evaluation, and the fields of `PublishedNumbers` that have the paper's.
PRINTED_METRICS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
}


@dataclass(frozen=True)
class PublishedNumbers:
    """The numbers of a row in the paper; None where it has none.

    ap to ap_large: COCO AP in per cent.  parameters: millions.  gflops: as the paper counts.  latency: milliseconds an
    image.  top1, top5: of a classifier, in per cent.
    """

    ap: float | None = None
    parameters: float | None = None
    gflops: float | None = None
    latency: float | None = None
    top1: float | None = None
    top5: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None

    @property
    def fps(self) -> float | None:
        """Images a second, of the latency: the papers print this quotient."""
        return None if self.latency is None else 1000 / self.latency


@dataclass(frozen=True)
class Row:
    """One row of a roadmap.

    key: its name on the command line.  name: its name in the paper.  change: settings, by dotted path, that differ from
    the row `base`; None is the row before.  start: the recipe of a row that is not compared with a row above it (the
    first row has the roadmap's own).  note: remark on its numbers, such as why one differs from the paper.  counts: how
    the paper counted this row, None as the others.
    """

    key: str
    name: str
    change: Mapping[str, object] = field(default_factory=dict)
    published: PublishedNumbers = PublishedNumbers()
    base: str | None = None
    start: Recipe | None = None
    note: str = ""
    counts: Counts | None = None


@dataclass(frozen=True)
class Roadmap:
    """A roadmap: an ablation table of a paper as recipes.

    name: its name on the command line.  title: its subject.  source: paper and table.  setting: data set and hardware
    in the paper.  counts: how the paper counts costs (`COUNTS`).  start: the recipe of the first row.
    """

    name: str
    title: str
    source: str
    setting: str
    start: Recipe
    rows: tuple[Row, ...]
    counts: Counts = "convolutions"

    @cached_property
    def recipes(self) -> Mapping[str, Recipe]:
        """Every row's recipe, by its key."""
        made: dict[str, Recipe] = {}
        for row in self.rows:
            base = self.base_of(row)
            start = row.start if row.start is not None else self.start if base is None else made[base]
            made[row.key] = change(start, row.change)
        return made

    @property
    def measures(self) -> tuple[str, ...]:
        """The metrics of the rows, by their names in the evaluation; rows are compared by the first.

        AP, and what else of AP the paper prints.
        """
        if "image classes" in self.start.model.provides:
            return ("top1", "top5")
        return tuple(
            name
            for name, figure in PRINTED_METRICS.items()
            if name == "AP" or any(getattr(row.published, figure) is not None for row in self.rows)
        )

    def cost(self, row: Row, model: Architecture, size: tuple[int, int]) -> tuple[float, float]:
        """Parameters in millions, and GFLOPs at a size, of a row's model (perhaps scaled), counted as in the paper."""
        return count_cost(model, size, row.counts or self.counts)

    def base_of(self, row: Row) -> str | None:
        """The key of the row that this one changes; None for a row that is not compared with another."""
        index = self.rows.index(row)
        if index == 0 or row.start is not None:
            return None
        return row.base if row.base is not None else self.rows[index - 1].key

    def row(self, key: str) -> Row:
        """The row with a key, or with a number from 1. ConfigError with the nearest keys for an unknown one."""
        keys = [row.key for row in self.rows]
        if key.isascii() and key.isdigit() and 1 <= int(key) <= len(keys):
            return self.rows[int(key) - 1]
        if key not in keys:
            remedy = f"Rows: {', '.join(keys)}; or their numbers from 1 to {len(keys)}."
            raise ConfigError(f"{self.name} has no row '{key}'.{did_you_mean(key, keys)}", remedy)
        return self.rows[keys.index(key)]


def count_cost(model: Architecture, size: tuple[int, int], counts: Counts) -> tuple[float, float]:
    """Parameters in millions, and GFLOPs at an input size (height, width), in one of the ways of `COUNTS`."""
    with torch.device("meta"):
        detector = model.build()
    if counts == "profiler":
        return count_parameters(detector) / 1e6, count_profiler_gflops(detector, size)
    if counts in ("merged", "affine"):
        parameters, gflops = count_merged(detector, size, per_norm=2 if counts == "merged" else 4)
        return parameters / 1e6, gflops
    deployed = deploy(detector)
    counted = count_parameters(deployed if counts == "biases" else detector) / 1e6
    return counted, count_gflops(deployed, size, biases=counts == "biases")
