"""`onelook.search`: a backbone for the user's own budget, found by MAE-NAS without training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from onelook.api.open import PathLike
from onelook.api.run_folder import run_folder
from onelook.api.search_latency import (
    FINALISTS,
    MORE_FINALISTS,
    Finalist,
    LatencyMeter,
    calibrated,
    measured_finalists,
)
from onelook.api.search_runtimes.runtimes import SearchRuntime
from onelook.api.search_session import MOST_PROCESSES, model_costs, run_search
from onelook.cluster.place import parse_place
from onelook.cluster.ray_workers import workers_at
from onelook.cluster.workers import InProcess, LocalPool
from onelook.config import check_arguments
from onelook.errors import ConfigError, UsageError, UserError
from onelook.files import write_text
from onelook.nas.budget import read_budgets
from onelook.nas.cost import cost
from onelook.nas.evolution import Budgets, Task, initial_population, random_structures
from onelook.nas.latency import Calibration
from onelook.nas.score import score
from onelook.nas.state import STATE_FILE, SearchState, read_state
from onelook.networks.branched_structure import AnyStructure
from onelook.networks.model_file import ModelFile, write_model_file
from onelook.networks.variants import VARIANTS
from onelook.recipes.search_forms import SearchForm
from onelook.recipes.searches import family_form, published_structures, search_form
from onelook.report.search import write_search_chart
from onelook.reporter import PlainReporter, Reporter, ignore_progress
from onelook.types import text_repr

EVALUATIONS = 100_000  # unless another number is given
ATTEMPTS = 3  # to find structures that keep a latency budget when they are measured whole
CHART = "search.png"
RESULT = "result.json"
_CHARTED = 80  # random structures in the chart


@dataclass(frozen=True)
class SearchRow:
    """Score and cost of one backbone, found or published.

    name: of the model.  score: weighted entropy of the features.
    layers, parameters, flops: of the backbone, as the search counts them (one a multiply-add).  within: whether it is
    within the budgets.  detector_parameters, gflops: of the whole detector in its deploy form, two a multiply-add.
    predicted, measured: seconds of the detector for one image, by the table and whole; None without a latency budget.
    """

    name: str
    score: float
    layers: int
    parameters: int
    flops: float
    within: bool
    detector_parameters: int
    gflops: float
    predicted: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """The result of a search for a backbone; so far where it was stopped.

    folder: of the search.  model: file of the found model, for `onelook.train`, `onelook.models` and others.  chart:
    image of scores against costs.  rows: the found backbone, then the published ones with the same kind of blocks.
    budgets: the limits.  size: side of the input in pixels.  evaluations, seconds: structures that were made, and the
    time it took.  interrupted: whether Ctrl-C stopped it.  resume_command: how the search is continued.
    calibration: how well latency was predicted; None without a budget of latency.  remarks: where the theory of the
    score does not cover this form of backbone.
    """

    folder: Path
    model: Path
    chart: Path
    rows: tuple[SearchRow, ...]
    budgets: Budgets
    size: int
    evaluations: int
    seconds: float
    interrupted: bool
    resume_command: str = ""
    calibration: Calibration | None = None
    remarks: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0; 130 after Ctrl-C."""
        return 130 if self.interrupted else 0

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "chart": str(self.chart),
            "size": self.size,
            "budgets": {name: value for name, value in asdict(self.budgets).items() if value is not None},
            "evaluations": self.evaluations,
            "rows": [asdict(row) for row in self.rows],
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "remarks": list(self.remarks),
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        best = self.rows[0]
        lines = [f"{best.name}: score {best.score:.1f} after {self.evaluations} evaluations, in {self.model}"]
        return "\n".join([*lines, *([f"Stopped. To resume: {self.resume_command}"] if self.interrupted else [])])


def search(
    budget: str = "",
    *,
    family: str = "damo-yolo",
    like: str | None = None,
    size: int | None = None,
    runtime: SearchRuntime | None = None,
    threads: int | None = None,
    device: str | None = None,
    evaluations: int | None = None,
    processes: int | None = None,
    seed: int | None = None,
    name: str | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    on: str | None = None,
    resume_command: Callable[[Path], str] | None = None,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Searches for the backbone with the highest entropy within a budget, without training (MAE-NAS, DAMO-YOLO 2.1).

    budget: upper limits, separated by commas, such as "flops=4G,layers=20" or "parameters=2M"; or the cost of a
    published model, "flops=damo-yolo-t". They count the backbone alone, one a multiply-add; layers are those of `like`
    unless given. "latency=12ms" is of the whole detector for one image on this machine, without choosing boxes:
    predicted from measured convolutions, and measured for the finalists. Only a resumed search has no budget.
    runtime: what measures latency; None is "torch".  threads: of it; None is one a core.  device: "cuda", "cuda:1",
    "mps" for a GPU, with the runtime torch only; None is the CPU.
    family, like: the found detector has the blocks, stem, neck and head of the variant `like`; None is damo-yolo-t,
    yolox-tiny, yolov4 or yolov7-tiny.  size: side of the input in pixels; None is that of `like`.
    evaluations: structures to try, earlier ones of the search included; None is 100,000.  processes: how many compute;
    the result does not depend on it.  seed: None is 0.  name: of the found model; None is that of the folder.
    out: folder of the search; None is runs/search-NAME.  resume: continue the search in `out`; only `evaluations`,
    `processes` and `on` may be new then.  on: "ray" or "ray://HOST:PORT" computes on a Ray cluster, with the same
    result; None is this machine.  resume_command: how to continue the search in a folder, for the result's message.

    Ctrl-C ends the search with the best structure so far. Raises UserError for budgets that no structure fits.
    """
    check_arguments(search, locals())
    reporter = PlainReporter() if reporter is None else reporter
    if any(number is not None and number < 1 for number in (evaluations, processes)):
        raise UsageError("evaluations and processes are at least 1.")
    if processes is not None and processes > MOST_PROCESSES:
        raise UsageError(f"{processes} processes have nothing to do: a round has {MOST_PROCESSES} parts.")
    place = parse_place(on)
    if processes is not None and not place.is_local:
        raise UsageError("processes are those of this machine.", "Leave it away, or give on='ray,workers=4'.")
    folder = run_folder(out, resume, f"search-{like or family}")
    given = {"budget": budget or None, "like": like, "size": size, "seed": seed, "name": name}
    given |= {"runtime": runtime, "threads": threads, "device": device}
    if resume:
        if refused := [key for key, value in given.items() if value is not None]:
            raise UsageError("A resumed search keeps its settings.", f"Leave away: {', '.join(refused)}.")
        state = read_state(folder, lambda settings: search_form(settings["like"]).structure)
        task = _task(state.settings)
    else:
        state, task = _new_state(folder, like or family_form(family), given, evaluations)
    if evaluations is not None:
        state.settings["evaluations"] = evaluations
    started = time.monotonic()
    if task.budgets.seconds is None:
        if runtime is not None or threads is not None or device is not None:
            raise UsageError(
                "runtime, threads and device are for a budget of latency.", "Leave them away, or add latency=..."
            )
        local = InProcess() if processes in (None, 1) else LocalPool(processes)
        with workers_at(place, local, reporter, device="cpu") as workers:
            interrupted = run_search(task, state, folder, workers=workers, reporter=reporter)
        result = _finish(task, state, folder, interrupted)
    else:
        if processes not in (None, 1) or not place.is_local:
            raise UsageError("Measuring latency needs the machine for itself.", "Leave processes and on away.")
        result = _search_by_latency(task, state, folder, reporter)
    command = (resume_command or _resume_call)(folder) if result.interrupted else ""
    return replace(result, seconds=time.monotonic() - started, resume_command=command)


def _search_by_latency(task: Task, state: SearchState, folder: Path, reporter: Reporter) -> SearchResult:
    """Calibrates the table, searches, and measures the best structures whole.

    Where none of them is within the budget, the predictions are corrected and the search continues.
    """
    settings = state.settings
    meter = LatencyMeter(
        search_form(settings["like"]), task.size, settings["runtime"], settings["threads"], settings.get("device")
    )
    model = meter.model()
    if "calibration" not in settings:
        settings["calibration"] = asdict(calibrated(meter, task, reporter))
    calibration = Calibration(**settings["calibration"])
    model.scale, model.constant = calibration.scale, calibration.rest
    task = replace(task, latency=model)
    if not state.turn:
        state.members = initial_population(task).members
    limit, finalists, evaluations = task.budgets.seconds or 0.0, [], settings["evaluations"] - state.evaluations
    for attempt in range(ATTEMPTS):
        if run_search(task, state, folder, workers=InProcess(), reporter=reporter):
            return _finish(task, state, folder, True, calibration=calibration)
        count = FINALISTS if calibration.reliable else MORE_FINALISTS
        finalists = measured_finalists(meter, model, state.members, reporter, count)
        if any(one.measured <= limit for one in finalists) or attempt == ATTEMPTS - 1:
            break
        slower = min(one.measured / one.predicted for one in finalists)
        reporter.info(f"The finalists take {slower:.2f} times the predicted time or more: searching with that.")
        model.scale, model.constant = model.scale * slower, model.constant * slower
        kept = [(value, one) for value, one in state.members if task.allows(one)]
        state.members = kept or initial_population(task).members
        settings["calibration"] |= {"scale": model.scale, "rest": model.constant}
        settings["evaluations"] = state.evaluations + max(evaluations, 1)
    within = [one for one in finalists if one.measured <= limit]
    if not within:
        reporter.warning("No finalist is within the budget as measured: the fastest of them is the result.")
    best = max(within, key=lambda one: one.score) if within else min(finalists, key=lambda one: one.measured)
    return _finish(task, state, folder, False, best=best, meter=meter, calibration=calibration)


def _resume_call(folder: Path) -> str:
    return f"call onelook.search again with out='{folder}' and resume=True"


def _new_state(folder: Path, like: str, given: dict[str, Any], evaluations: int | None) -> tuple[SearchState, Task]:
    """Begins a search; UserError for settings that cannot be used."""
    form = search_form(like)
    if (folder / STATE_FILE).exists():
        raise UserError(f"'{folder}' holds a search already.", "Continue it (resume), or choose another folder (out).")
    if not given["budget"]:
        raise UsageError("The budget is missing.", "Give one, such as flops=4G or flops=damo-yolo-t.")
    size = given["size"] or form.size[0]
    if size < 32 or size % 32:
        raise UsageError(f"The size {size} is not usable.", "Give a multiple of 32.")
    name = given["name"] or folder.name
    if name in VARIANTS:
        raise UsageError(f"'{name}' is the name of a published model.", "Give another name.")
    settings = {
        "like": like,
        "size": size,
        "budget": given["budget"],
        "seed": given["seed"] or 0,
        "name": name,
        "evaluations": evaluations or EVALUATIONS,
        "runtime": given["runtime"] or "torch",
        "threads": given["threads"],
        "device": given["device"],
    }
    task = _task(settings)
    return SearchState(settings, members=initial_population(task).members), task


def _task(settings: dict[str, Any]) -> Task:
    form, size = search_form(settings["like"]), int(settings["size"])

    def cost_of(kind: str, name: str) -> float:
        try:
            own = search_form(name)
        except ConfigError as error:
            raise UsageError(f"The budget {kind}={name} is no number. {error.message}", error.remedy) from error
        if kind == "latency":
            raise UsageError(f"The latency of {name} is not known before it is measured.", "Give a time: latency=12ms.")
        return float(getattr(cost(own.structure, size), kind))

    budgets = read_budgets(settings["budget"], cost_of)
    layers = budgets.layers or form.layers
    return Task(form.space(layers), replace(budgets, layers=layers), size, int(settings["seed"]))


def _finish(
    task: Task,
    state: SearchState,
    folder: Path,
    interrupted: bool,
    *,
    best: Finalist | None = None,
    meter: LatencyMeter | None = None,
    calibration: Calibration | None = None,
) -> SearchResult:
    """Writes the found model, the chart and the comparison with the published backbones."""
    form = search_form(state.settings["like"])
    structure, name = state.best if best is None else best.structure, state.settings["name"]
    published = published_structures(form)
    rows = [_row(name, structure, form, task)]
    rows += [_row(other, one, search_form(other), task) for other, one in published.items()]
    if meter is not None:  # all in alternation: the found one again, too
        seconds = meter.measure([structure, *published.values()], ignore_progress)
        limit = task.budgets.seconds or 0.0
        rows = [
            replace(row, measured=found, within=task.budgets.allow(cost(one, task.size)) and found <= limit)
            for row, one, found in zip(rows, (structure, *published.values()), seconds)
        ]
        if best is not None:  # its measurement among the finalists decided
            rows[0] = replace(rows[0], measured=best.measured, within=best.measured <= limit)
    detector = form.detector(structure, (task.size, task.size))
    model = write_model_file(folder / f"{name}.yaml", ModelFile(name, form.name, detector))
    chart = _write_chart(folder / CHART, task, rows)
    result = SearchResult(
        folder,
        model,
        chart,
        tuple(rows),
        task.budgets,
        task.size,
        state.evaluations,
        0.0,
        interrupted,
        calibration=calibration,
        remarks=form.remarks,
    )
    write_text(folder / RESULT, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _row(name: str, structure: AnyStructure, form: SearchForm, task: Task) -> SearchRow:
    count = cost(structure, task.size)
    parameters, gflops = model_costs(form.detector(structure, (task.size, task.size)), task.size)
    return SearchRow(
        name,
        score(structure, task.weights),
        count.layers,
        count.parameters,
        count.flops,
        task.allows(structure),
        parameters,
        gflops,
        None if task.latency is None else task.latency(structure),
    )


def _write_chart(path: Path, task: Task, rows: list[SearchRow]) -> Path:
    """The chart: the found backbone, the published ones of a similar cost, and random structures within the budgets."""
    latency = task.latency
    others = random_structures(task, _CHARTED, Random(task.seed))
    counts = [cost(one, task.size) for one in others]
    if latency is not None:
        places = [1e3 * latency(one) for one in others]
        named = [1e3 * (row.measured or row.predicted or 0.0) for row in rows]
        label = f"ms an image, {task.size} pixels (named ones measured, the others predicted)"
    elif task.budgets.flops is None and task.budgets.parameters is not None:
        places, named = [one.parameters / 1e6 for one in counts], [row.parameters / 1e6 for row in rows]
        label = "M parameters of the backbone"
    else:
        places, named = [one.flops / 1e9 for one in counts], [row.flops / 1e9 for row in rows]
        label = f"G multiply-adds of the backbone, {task.size} pixels"
    random = [(place, score(one, task.weights)) for place, one in zip(places, others)]
    shown = {row.name: (place, row.score) for row, place in zip(rows, named) if place <= 2.5 * named[0]}
    return write_search_chart(path, random, shown, label)
