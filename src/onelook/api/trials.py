"""Runs the trials of a search, each a training in a process of its own, and records their results."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from onelook import run_files
from onelook.api import trial_process
from onelook.cluster.retrying import MOST_ATTEMPTS
from onelook.cluster.workers import POLL, Call, LocalProcesses, WorkerLostError, Workers
from onelook.config import to_plain, write_yaml
from onelook.files import write_text
from onelook.reporter import Reporter
from onelook.training.files import make_folder
from onelook.training.interrupt import StopRequest
from onelook.training.recipe import Recipe
from onelook.training.result import format_duration
from onelook.tuning.genes import Gene
from onelook.tuning.study import Study, Trial

BASE, BEST, TABLE = "base.yaml", "best.yaml", "results.csv"
OUTPUT_END = 2000  # characters of a failed trial's output that are searched for its message


def create_study(
    folder: Path, recipe: Recipe, genes: Sequence[Gene], seed: int, options: Mapping[str, Any] | None = None
) -> Study:
    """Creates a search in a folder. options: what a resumed search needs again."""
    make_folder(folder)
    write_yaml(folder / BASE, to_plain(recipe))
    study = Study(folder, recipe, genes, seed, write_text)
    study.options = dict(options or {})
    study.save()
    return study


class Launcher:
    """Starts the trainings of a search, each in a process of its own.

    options: the arguments of `onelook.train` that all trials share.  devices: trials take them in turn.  workers: whose
    processes they are; None is this machine's. On other machines the folder and the data have the same paths.
    """

    def __init__(
        self,
        data: str,
        folder: Path,
        options: Mapping[str, Any],
        devices: Sequence[str | None] = (None,),
        workers: Workers | None = None,
    ) -> None:
        self.data, self.folder, self.options, self.devices = data, folder, dict(options), list(devices)
        self.workers = LocalProcesses() if workers is None else workers

    def start(self, study: Study, trial: Trial) -> Call[int]:
        """Starts the training of a trial, from its checkpoint where it has one."""
        run, recipe = self.folder / trial.name, self.folder / f"{trial.name}.yaml"
        write_yaml(recipe, to_plain(study.recipe_of(trial)))
        self.result(trial).unlink(missing_ok=True)
        resume = (run / run_files.CHECKPOINT).is_file()
        arguments = {
            **self.options,
            "recipe": None if resume else str(recipe),
            "data": self.data,
            "resume": resume,
            "device": self.devices[trial.number % len(self.devices)],
        }
        texts = str(run), str(self.result(trial)), json.dumps(arguments)
        return self.workers.submit(trial_process.main, *texts, log=self.output(trial))

    def result(self, trial: Trial) -> Path:
        """The file of the result of a trial's training."""
        return self.folder / f"{trial.name}.json"

    def output(self, trial: Trial) -> Path:
        """The file with the output of a trial's training."""
        return self.folder / f"{trial.name}.log"


class SearchBudget(Protocol):
    """The time of a search, as `onelook.api.tune_budget` measures it."""

    @property
    def exhausted(self) -> bool:
        """Whether running trials are stopped now: they are saved, and a larger budget continues them."""
        ...

    def has_room(self, study: Study) -> bool:
        """Whether another trial may be started."""
        ...

    def progress(self) -> tuple[float, float]:
        """Seconds that are spent, and all."""
        ...


def run_study(
    study: Study,
    trials: int,
    launcher: Launcher,
    parallel: int,
    reporter: Reporter,
    *,
    budget: SearchBudget | None = None,
    title: str = "search",
) -> bool:
    """Runs trials up to the number `trials`, unfinished ones first; returns whether it was interrupted.

    budget: ends the search before that number; None is without a limit of time.  title: of the
    progress.
    """
    waiting = study.unfinished()
    for trial in waiting:
        wait_for_process(trial, launcher)
    running: dict[int, tuple[Call[int], float]] = {}
    stopped: set[int] = set()
    lost: Counter[int] = Counter()
    scores = TrialScores(launcher.folder, study.recipe.metric)
    with StopRequest() as stop, reporter.progress(title) as show:
        while True:
            over = budget is not None and budget.exhausted
            ends = stop.requested or over
            while not ends and len(running) < parallel and (waiting or _starts(study, trials, budget)):
                trial = waiting.pop(0) if waiting else study.start_trial()
                call = launcher.start(study, trial)
                running[trial.number] = (call, time.monotonic())
                study.update_trial(trial, process=call.process)
            for number, (call, begun) in list(running.items()):
                if ends and not call.done():
                    call.interrupt()
                elif not call.done() and number not in stopped and _is_worse(study, number, scores):
                    stopped.add(number)
                    call.interrupt()
                if ends or call.done():
                    del running[number]
                    code, seconds = exit_code(call), time.monotonic() - begun
                    lost[number] += code is None
                    if code is None and lost[number] < MOST_ATTEMPTS:
                        reporter.info(f"trial {number}: its worker was lost; it continues from its last checkpoint.")
                        seconds += study.trials[number].seconds
                        waiting.append(study.update_trial(study.trials[number], seconds=seconds))
                        continue
                    record_result(study, study.trials[number], launcher, -1 if code is None else code, seconds)
                    if number in stopped and study.trials[number].status == "running":
                        study.update_trial(study.trials[number], status="stopped")
                    write_tables(study)
                    reporter.info(trial_line(study, study.trials[number]))
            if not running and (ends or not (waiting or _starts(study, trials, budget))):
                return stop.requested and bool(study.unfinished() or _starts(study, trials, budget))
            done, total = _progress(study, trials, budget)
            left = [f"{format_duration(total - done)} left"] if budget is not None else []
            show(done, total, "; ".join([*_details(study, list(running), scores), *left]))
            launcher.workers.wait([call for call, _ in running.values()], POLL)


def _starts(study: Study, trials: int, budget: SearchBudget | None) -> bool:
    """Whether another trial is to be started."""
    return len(study.trials) < trials and (budget is None or budget.has_room(study))


def _is_worse(study: Study, number: int, scores: TrialScores) -> bool:
    """Whether the proposer stops a running trial, after an epoch that it has not seen yet."""
    found = scores.new(study.trials[number].name)
    return bool(found) and study.proposer.stops(study.trials[number], found)


def _progress(study: Study, trials: int, budget: SearchBudget | None) -> tuple[float, float]:
    if budget is not None:
        return budget.progress()
    return float(sum(trial.status != "running" for trial in study.trials)), float(trials)


def _details(study: Study, running: Sequence[int], scores: TrialScores) -> list[str]:
    """What the progress shows: the running trials with their epochs, and the best so far."""
    parts = []
    for number in sorted(running):
        epoch, score = scores.last(study.trials[number].name)
        reached = "" if score is None else f", {study.recipe.metric} {score:.4f}"
        parts.append(f"trial {number}: epoch {epoch} of {study.recipe.epochs}{reached}")
    best = study.best
    if best is not None and best.fitness is not None:
        parts.append(f"best {best.fitness:.4f} (trial {best.number})")
    return parts


class TrialScores:
    """Reads the epochs and scores of running trials from their metrics.csv, where it has changed.

    folder: of the search.  metric: the column of the score.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.folder, self.metric = folder, metric
        self._seen: dict[str, tuple[int, int]] = {}
        self._known: dict[str, dict[int, float]] = {}
        self._epochs: dict[str, int] = {}

    def new(self, trial: str) -> dict[int, float]:
        """The scores of a trial by epoch, from 1 on; {} where the file is as it was at the last call."""
        path = self.folder / trial / run_files.METRICS
        try:
            status = path.stat()
            if self._seen.get(trial) == (status.st_mtime_ns, status.st_size):
                return {}
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._known[trial] = {int(row["epoch"]): float(row[self.metric]) for row in rows if row.get(self.metric)}
            self._epochs[trial] = int(rows[-1]["epoch"]) if rows else 0
        except (OSError, ValueError, KeyError):
            return {}  # not written yet, or being replaced: the next look finds it
        self._seen[trial] = (status.st_mtime_ns, status.st_size)
        return self._known[trial]

    def last(self, trial: str) -> tuple[int, float | None]:
        """The epochs that are done, and the last score, as `new` has read them."""
        known = self._known.get(trial, {})
        return self._epochs.get(trial, 0), known[max(known)] if known else None


def exit_code(call: Call[int]) -> int | None:
    """The exit code of a training; None where its worker was lost."""
    try:
        return call.result()
    except WorkerLostError:
        return None
    except KeyboardInterrupt:
        return 130


def wait_for_process(trial: Trial, launcher: Launcher) -> None:
    """Waits for a training that still runs after its search was killed: two must not write to one folder."""
    here = str(launcher.folder / trial.name).encode()
    while trial.process is not None and here in _command_of(trial.process):
        time.sleep(POLL)


def _command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended; where there is no /proc, its trainings are taken to have ended with the search


def record_result(study: Study, trial: Trial, launcher: Launcher, code: int, seconds: float) -> None:
    """Records the result of a trial's training; one that was stopped stays unfinished."""
    seconds += trial.seconds
    try:
        result = json.loads(launcher.result(trial).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {}
    if code in (130, -signal.SIGINT, -signal.SIGTERM) or result.get("reason") == "interrupted":
        study.update_trial(trial, seconds=seconds)
    elif code == 0 and isinstance(result.get("best"), float | int):
        study.update_trial(trial, status="done", fitness=float(result["best"]), seconds=seconds)
    elif code == 0 and result.get("best", 0) is None:
        error = f"{study.recipe.metric} was never defined on the validation set"
        study.update_trial(trial, status="failed", seconds=seconds, error=error)
    else:
        output = launcher.output(trial).read_bytes()[-OUTPUT_END:].decode(errors="replace").strip().splitlines()
        reason = next(
            (line for line in reversed(output) if "rror" in line), output[-1] if output else f"exit code {code}"
        )
        study.update_trial(trial, status="failed", seconds=seconds, error=reason)


def write_tables(study: Study) -> None:
    """Writes the table of results so far, and the best recipe."""
    text, rows = io.StringIO(), study.rows()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(study.folder / TABLE, text.getvalue())
    if study.best is not None:
        write_yaml(study.folder / BEST, to_plain(study.recipe_of(study.best)))


def trial_line(study: Study, trial: Trial) -> str:
    """The message about a finished trial."""
    values = "  ".join(f"{path}={value:g}" for path, value in study.settings(trial).items())
    reached = f"{study.recipe.metric} {trial.fitness:.4f}" if trial.fitness is not None else trial.status
    best = "  best" if study.best is trial else ""
    note = f"  {trial.error} (see {study.folder / trial.name}.log)" if trial.error else ""
    return f"trial {trial.number}  {reached}  {trial.seconds:.0f} s  {values}{best}{note}"
