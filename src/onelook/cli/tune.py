"""`onelook tune`: a genetic search over the numbers of a recipe, each trial a run of its own."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from onelook.cli.train_start import choose_recipe, open_splits, run_folder
from onelook.config import to_plain, write_yaml
from onelook.errors import UsageError, UserError
from onelook.recipes import read_recipe
from onelook.training.files import make_folder, write_text
from onelook.training.interrupt import StopRequest
from onelook.training.preflight import missing_for_metric
from onelook.training.processes import choose_device
from onelook.tuning.genes import Gene, default_genes, read_gene
from onelook.tuning.study import STUDY_FILE, Study, Trial

if TYPE_CHECKING:
    from onelook.training.recipe import Recipe

BASE, BEST, TABLE = "base.yaml", "best.yaml", "results.csv"
TRIALS = 30  # unless told otherwise
POLL = 0.2  # seconds between two looks at the trials that run
LAST_WORDS = 2000  # characters of a failed trial's output that are searched for its message


@dataclass(frozen=True)
class Tuned:
    """The result of a search, or of the part of it until it was stopped.

    resume_with: the command that goes on with it.
    """

    folder: Path
    metric: str
    rows: tuple[dict[str, Any], ...]
    best: int | None
    interrupted: bool
    resume_command: str = ""

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 0 if self.best is not None else 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        recipe = None if self.best is None else str(self.folder / BEST)
        return {
            "folder": str(self.folder),
            "metric": self.metric,
            "trials": list(self.rows),
            "best": self.best,
            "recipe": recipe,
        }

    def show(self, console: Console) -> None:
        """The trials, best first, and where the best recipe is."""
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("trial", self.metric, "seconds", *list(self.rows[0] if self.rows else {})[4:]):
            table.add_column(name, justify="right")
        for row in sorted(self.rows, key=lambda row: (row["fitness"] is None, -(row["fitness"] or 0), row["trial"])):
            fitness = row["status"] if row["fitness"] is None else f"{row['fitness']:.4f}"
            style = "bold" if row["trial"] == self.best else None
            rest = (f"{value:.5g}" for value in list(row.values())[4:])
            table.add_row(str(row["trial"]), fitness, f"{row['seconds']:.0f}", *rest, style=style)
        console.print(table)
        if self.interrupted:
            console.print(f"Stopped. To go on: {self.resume_command}", soft_wrap=True, markup=False)
        if self.best is not None:
            console.print(f"The best recipe: {self.folder / BEST}", soft_wrap=True, markup=False)


def tune(
    data: str,
    /,
    *settings: str,
    model: str | None = None,
    recipe: str | None = None,
    weights: str | None = None,
    trials: int | None = None,
    parallel: int | None = None,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: str | None = None,
    resume: bool = False,
    seed: int | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    workers: int | None = None,
) -> Tuned:
    """Search for better settings of a training.

    Trains again and again with other numbers in the recipe: first as it is, then at random, then children of the best
    (a genetic algorithm, as YOLOv4's authors chose theirs). path=low..high names a number to search; without any, the
    learning rate, momentum, weight decay and the weights of the loss are searched. path=value changes the recipe of all
    trials. Each trial is a run in the folder; the best recipe is best.yaml there, for onelook train --recipe. Stop with
    Ctrl-C and go on with --resume: what is not given then is as it was.

    Examples:
        onelook tune data/ --model yolox-nano --epochs 10 --trials 40
        onelook tune data/ --model yolox-nano --epochs 10 optimizer.momentum=0.8..0.98 loss.terms.box.weight=1..10
        onelook tune data/ --out runs/mine --resume --parallel 2

    Args:
        data: Data set: a folder, a YAML file or a COCO JSON file; or a folder of class folders.
        settings: path=low..high to search a number, path=value to change the recipe.
        model: Name of the model. Needed unless --recipe or --resume gives one.
        recipe: Another recipe: its name, a recipe.yaml, or the folder of a run.
        weights: File that every trial starts from.
        trials: How many trainings, those of earlier sittings included; 30 unless given.
        parallel: Trainings at the same time; one unless given.
        epochs: Passes over the data of each trial.
        size: Side of the network's input in pixels, a multiple of 32.
        batch: Images a step; as published (64) on a GPU, 16 on a CPU.
        device: cpu, cuda, cuda:1, mps; several with commas are taken in turn.
        out: Folder of the search.
        resume: Go on with the search in --out.
        seed: Of the search's own randomness; 0 unless given.
        train_split: Split to train on.
        val_split: Split to evaluate on.
        workers: Processes of each training that prepare images.
    """
    if any(number is not None and number < 1 for number in (trials, parallel)):
        raise UsageError("--trials and --parallel are at least 1.")
    given = {
        **{"trials": trials, "parallel": parallel, "device": device, "weights": weights, "workers": workers},
        **{"train_split": train_split, "val_split": val_split},
    }
    options = {name: value for name, value in given.items() if value is not None}
    folder = run_folder(out, resume, f"tune-{model or recipe or 'recipe'}")
    if resume:
        told = {"model": model, "recipe": recipe, "epochs": epochs, "size": size, "batch": batch, "seed": seed}
        refused = [f"--{name}" for name, value in told.items() if value is not None] + list(settings)
        if refused:
            raise UsageError(
                "A search goes on with the settings it began with.",
                f"Leave away: {' '.join(refused)}; or begin a new search: --out.",
            )
        study = Study.read(folder, read_recipe(folder / BASE), write_text)
        options = {**study.options, **options}
    devices = str(options["device"]).split(",") if "device" in options else [None]
    first = choose_device(devices[0])
    if resume:
        study.options = options
        study.save()
    else:
        if (folder / STUDY_FILE).exists():
            raise UserError(f"'{folder}' holds a search already.", "Go on with it: --resume; or choose another --out.")
        training, validation, _ = open_splits(data, train_split, val_split)
        if validation is None:
            raise UserError("There is nothing to evaluate on, so no trial is better than another.", "Give --val-split.")
        chosen = choose_recipe(
            training.names,
            tuple(setting for setting in settings if not is_range(setting)),
            model=model,
            recipe=recipe,
            epochs=epochs,
            size=size,
            batch=batch,
            fine_tunes=weights is not None,
            teaches=False,
            on_cpu=first.type == "cpu",
            classifies=training.format == "classes",
        )
        if lacking := missing_for_metric(chosen.metric, validation):
            raise UserError(
                f"The validation split has no {lacking}: {chosen.metric} is undefined on it, so no trial is better "
                "than another.",
                "Choose another with --val-split, or another metric.",
            )
        genes = tuple(read_gene(setting, chosen) for setting in settings if is_range(setting)) or default_genes(chosen)
        study = begin_study(folder, chosen, genes, seed or 0, options)
    flags = flags_of(**{name: options.get(name) for name in ("weights", "train_split", "val_split", "workers")})
    launcher = Launcher(data, folder, flags, devices)
    interrupted = run_study(study, int(options.get("trials", TRIALS)), launcher, int(options.get("parallel", 1)))
    resume_with = f"onelook tune {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume"
    return finish(study, interrupted, resume_with)


def is_range(setting: str) -> bool:
    """Whether a setting is one to search."""
    return ".." in setting.partition("=")[2]


def flags_of(**given: Any) -> list[str]:
    """The flags of `onelook train` for what is given."""
    named = {name: value for name, value in given.items() if value is not None}
    return [part for name, value in named.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def begin_study(
    folder: Path, recipe: Recipe, genes: Sequence[Gene], seed: int, options: Mapping[str, Any] | None = None
) -> Study:
    """A new search in a folder; options: the flags that it goes on with."""
    make_folder(folder)
    write_yaml(folder / BASE, to_plain(recipe))
    study = Study(folder, recipe, genes, seed, write_text)
    study.options = dict(options or {})
    study.save()
    return study


class Launcher:
    """Starts the trainings of a search, each in a process of its own."""

    def __init__(self, data: str, folder: Path, flags: Sequence[str], devices: Sequence[str | None]) -> None:
        self.data, self.folder, self.flags, self.devices = data, folder, list(flags), list(devices)

    def start(self, study: Study, trial: Trial) -> subprocess.Popen[bytes]:
        """The training of a trial, from its last state where it has one."""
        run, recipe = self.folder / trial.name, self.folder / f"{trial.name}.yaml"
        write_yaml(recipe, to_plain(study.recipe_of(trial)))
        command = [sys.executable, "-m", "onelook", "train", self.data, "--out", str(run), *self.flags]
        command += ["--json", str(self.result(trial))]
        command += ["--resume"] if (run / "state.pt").is_file() else ["--recipe", str(recipe)]
        device = self.devices[trial.number % len(self.devices)]
        command += [] if device is None else ["--device", device]
        with self.output(trial).open("ab") as output:
            # In a session of its own: a Ctrl-C is passed on by the search, once.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def result(self, trial: Trial) -> Path:
        """Where a trial's training writes what it reached."""
        return self.folder / f"{trial.name}.json"

    def output(self, trial: Trial) -> Path:
        """Where what a trial's training says is kept."""
        return self.folder / f"{trial.name}.log"


def run_study(study: Study, trials: int, launcher: Launcher, parallel: int) -> bool:
    """Runs trials until there are so many; whether it was interrupted. Trials that were begun go on first."""
    console = Console(file=sys.stderr, highlight=False)
    waiting = study.unfinished()
    for trial in waiting:
        wait_for(trial, launcher)
    running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    with StopRequest() as stop:
        while True:
            while not stop.requested and len(running) < parallel and (waiting or len(study.trials) < trials):
                trial = waiting.pop(0) if waiting else study.start_trial()
                process = launcher.start(study, trial)
                running[trial.number] = (process, time.monotonic())
                study.update_trial(trial, process=process.pid)
            for number, (process, begun) in list(running.items()):
                if stop.requested and process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.wait()
                if process.poll() is not None:
                    del running[number]
                    collect(study, study.trials[number], launcher, process.returncode, time.monotonic() - begun)
                    write_tables(study)
                    say(console, study, study.trials[number])
            if not running and (stop.requested or (not waiting and len(study.trials) >= trials)):
                return stop.requested and bool(study.unfinished() or len(study.trials) < trials)
            time.sleep(POLL)


def wait_for(trial: Trial, launcher: Launcher) -> None:
    """Waits for a training that outlived a killed search: two in one folder would spoil it."""
    here = str(launcher.folder / trial.name).encode()
    while trial.process is not None and here in _command_of(trial.process):
        time.sleep(POLL)


def _command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended; where there is no /proc, a killed search must have taken its trainings along


def collect(study: Study, trial: Trial, launcher: Launcher, code: int, seconds: float) -> None:
    """Writes down how a training ended; one that was stopped stays unfinished."""
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
        said = launcher.output(trial).read_bytes()[-LAST_WORDS:].decode(errors="replace").strip().splitlines()
        reason = next((line for line in reversed(said) if "rror" in line), said[-1] if said else f"exit code {code}")
        study.update_trial(trial, status="failed", seconds=seconds, error=reason)


def write_tables(study: Study) -> None:
    """The results so far, and the best recipe."""
    text, rows = io.StringIO(), study.rows()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(study.folder / TABLE, text.getvalue())
    if study.best is not None:
        write_yaml(study.folder / BEST, to_plain(study.recipe_of(study.best)))


def say(console: Console, study: Study, trial: Trial) -> None:
    """A line on a trial that ended."""
    values = "  ".join(f"{path}={value:g}" for path, value in study.settings(trial).items())
    reached = f"{study.recipe.metric} {trial.fitness:.4f}" if trial.fitness is not None else trial.status
    best = "  best" if study.best is trial else ""
    note = f"  {trial.error} (see {study.folder / trial.name}.log)" if trial.error else ""
    line = f"trial {trial.number}  {reached}  {trial.seconds:.0f} s  {values}{best}{note}"
    console.print(line, soft_wrap=True, markup=False)


def finish(study: Study, interrupted: bool, resume_with: str = "") -> Tuned:
    """The result. Raises UserError where every trial failed."""
    if not interrupted and study.best is None:
        first = next((trial for trial in study.trials if trial.error), None)
        reason = first.error if first is not None else "none was begun"
        raise UserError(f"All {len(study.trials)} trials failed: {reason}", f"Look at {study.folder}{os.sep}*.log.")
    best = None if study.best is None else study.best.number
    return Tuned(study.folder, study.recipe.metric, tuple(study.rows()), best, interrupted, resume_with)
