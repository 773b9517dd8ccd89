"""Measures convolutions and whole detectors on this machine, for a search with a budget of latency."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from onelook.api.alternation import alternate
from onelook.api.bench import NoPostprocess, scene_images
from onelook.api.search_runtimes.runtimes import RUNTIMES, SearchRuntime
from onelook.devices import num_cores
from onelook.files import write_text
from onelook.nas.evolution import Task, random_structures
from onelook.nas.latency import Calibration, LatencyModel, OperatorTable, calibrate, neighbours
from onelook.nas.operators import Operator
from onelook.networks.branched_structure import AnyStructure
from onelook.networks.conv_shapes import conv_shapes
from onelook.networks.deploy import deploy_in_place
from onelook.predict.runtime import Runtime
from onelook.recipes.search_forms import SearchForm
from onelook.reporter import Progress, Reporter

FINALISTS, MORE_FINALISTS = 4, 12  # measured whole; the second number where the table is not reliable
_CALIBRATED = 10  # random networks
_WARM_UP, _RUNS, _LEAST_TIME = 2, 5, 0.01  # of one convolution: runs, and seconds that the runs take at least
_MOST_RUNS = 200
_LEAST_TURNS, _MOST_TURNS = 5, 60  # of whole networks, in alternation, with three runs each
_TURNS_TIME = 0.6  # seconds that the turns of one network take at least: a small one needs many for its fastest run


class LatencyMeter:
    """Measures on this machine, in one runtime.

    A time is that of the fastest run: what the network takes when nothing else is computed. With one thread it is the
    time of the processor, which does not count while other programs run.  form, size: of the measured detectors.
    device: of the runtime; None is the CPU.  threads: of the CPU; None is one a core.
    """

    def __init__(
        self, form: SearchForm, size: int, runtime: SearchRuntime, threads: int | None, device: str | None = None
    ) -> None:
        self.form, self.size = form, size
        self.runtime = one = RUNTIMES[runtime](threads or num_cores(), device)
        self.activation = form.structure.activation
        self._described = {"processor": one.hardware, "runtime": f"{runtime} {one.library}", "threads": one.threads}
        self.path = _cache_folder() / "operators" / (_plain(" ".join(map(str, self._described.values()))) + ".json")
        self.table = OperatorTable(self.operator_seconds, self._read())
        self._rest: dict[tuple[int, ...], float] = {}

    def model(self) -> LatencyModel:
        """Predicts seconds; not yet fitted to whole networks."""
        return LatencyModel(self.table, self.size, self._neck_and_head_seconds)

    def save(self) -> None:
        """Writes the measured convolutions to the cache, if there are new ones."""
        if self.table.added:
            rows = [[*operator, seconds] for operator, seconds in self.table.known.items()]
            write_text(self.path, json.dumps({**self._described, self.activation: rows}) + "\n")
            self.table.added = 0

    def _read(self) -> dict[Operator, float]:
        """The convolutions in the cache; a file that another version wrote or that is damaged is measured anew."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if all(data[key] == value for key, value in self._described.items()):
                return {Operator(*row[:-1]): float(row[-1]) for row in data[self.activation]}
        return {}

    def measure(self, structures: Sequence[AnyStructure], progress: Progress) -> list[float]:
        """Seconds of whole detectors with these backbones, each the fastest of runs in alternation with the others.

        From uint8 images of the input's size to boxes and scores, without choosing boxes.
        """
        with TemporaryDirectory() as folder:
            runs: dict[str, Callable[[], object]] = {}
            for place, structure in enumerate(structures):
                architecture = self.form.detector(structure, (self.size, self.size))
                runs[str(place)] = _run_of(self.runtime.detector(architecture, Path(folder) / str(place)))
                progress(place + 1, 2 * len(structures), "building whole networks")

            def measured(done: float, total: float) -> None:
                progress(len(structures) * (1 + done / total), 2 * len(structures), "measuring whole networks")

            clock, wait = self.runtime.clock, self.runtime.wait
            first = alternate(runs, 1, warm_up=1, wait=wait, clock=clock)
            mean = sum(seconds for (seconds,) in first.values()) / len(first)
            turns = min(max(_LEAST_TURNS, round(_TURNS_TIME / (3 * mean))), _MOST_TURNS)
            later = alternate(runs, turns, untimed=1, timed=2, wait=wait, progress=measured, clock=clock)
        return [min(*first[str(place)], *later[str(place)]) for place in range(len(structures))]

    def operator_seconds(self, operator: Operator) -> float:
        """Seconds of one convolution and its activation, measured."""
        run = self.runtime.convolution(operator, self.activation)
        return _fastest(run, self.runtime.clock, self.runtime.wait) / self.runtime.repeats

    def _neck_and_head_seconds(self, structure: AnyStructure) -> float:
        """The sum over the convolutions of neck and head behind a backbone, which depend on its last channels only.

        Interpolated like the table between channels of its grid, because a network has to be built for every triple.
        """
        corners = product(*(neighbours(channels) for channels in structure.level_channels()))
        return sum(
            prod(share for _, share in corner)
            * self._tabulated_neck_and_head_seconds(structure, tuple(channels for channels, _ in corner))
            for corner in corners
        )

    def _tabulated_neck_and_head_seconds(self, structure: AnyStructure, channels: tuple[int, ...]) -> float:
        """The same for exactly these last channels, from the table of operators; kept, as it depends on them alone."""
        if channels not in self._rest:
            with torch.device("meta"):
                backbone = structure.with_levels(channels)
                detector = deploy_in_place(self.form.detector(backbone, (self.size, self.size)).build())
            pyramid = tuple(
                torch.zeros(1, count, self.size // stride, self.size // stride)
                for count, stride in zip(channels, (8, 16, 32))
            )
            shapes = conv_shapes(_NeckAndHead(detector), pyramid)
            self._rest[channels] = self.table.total(Operator(*shape) for shape in shapes)
        return self._rest[channels]


def calibrated(meter: LatencyMeter, task: Task, reporter: Reporter) -> Calibration:
    """Fits the table to random whole networks within the other budgets; warns where it does not order them well."""
    structures = random_structures(
        replace(task, budgets=replace(task.budgets, seconds=None)), _CALIBRATED, Random(f"latency {task.seed}")
    )
    model = meter.model()
    with reporter.progress("latency table") as progress:
        sums = []
        for place, structure in enumerate(structures):
            sums.append(model.total(structure))
            progress(place + 1, len(structures), f"{len(meter.table.known)} convolutions")
    meter.save()
    with reporter.progress("latency of whole networks") as progress:
        found = calibrate(sums, meter.measure(structures, progress))
    low, high = min(found.measured), max(found.measured)
    text = (
        f"Latency of {len(structures)} random networks: {1e3 * low:.1f} to {1e3 * high:.1f} ms measured;"
        f" predicted within {100 * found.largest_error:.0f} %, rank correlation {found.correlation:.2f}."
    )
    if found.reliable:
        reporter.info(text)
    else:
        reporter.warning(f"{text} That is low: more of the best structures are measured whole.")
    return found


@dataclass(frozen=True)
class Finalist:
    """A structure that was measured whole: its score, and its predicted and measured seconds."""

    structure: AnyStructure
    score: float
    predicted: float
    measured: float


def measured_finalists(
    meter: LatencyMeter,
    model: LatencyModel,
    members: Sequence[tuple[float, AnyStructure]],
    reporter: Reporter,
    count: int,
) -> list[Finalist]:
    """Measures the structures with the best scores whole, in alternation."""
    chosen = list(members[:count])
    with reporter.progress("latency of the finalists") as progress:
        seconds = meter.measure([structure for _, structure in chosen], progress)
    meter.save()
    return [Finalist(one, value, model(one), found) for (value, one), found in zip(chosen, seconds)]


class _NeckAndHead(nn.Module):
    """The part of a detector behind its backbone."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.neck, self.head = detector.neck, detector.head

    def forward(self, pyramid: Any) -> Any:
        return self.head(self.neck(pyramid))


def _run_of(runtime: Runtime) -> Callable[[], object]:
    batch = scene_images(runtime, 1)
    return lambda: runtime(batch, NoPostprocess())


def _fastest(run: Callable[[], object], clock: Callable[[], float], wait: Callable[[], None]) -> float:
    """Seconds of the fastest run. wait: returns when the device has finished."""
    for _ in range(_WARM_UP):
        run()
    wait()
    best, total, count = float("inf"), 0.0, 0
    while count < _RUNS or (total < _LEAST_TIME and count < _MOST_RUNS):
        start = clock()
        run()
        wait()
        seconds = clock() - start
        best, total, count = min(best, seconds), total + seconds, count + 1
    return best


def _cache_folder() -> Path:
    """The user's folder for what can be measured again (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onelook"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower()
