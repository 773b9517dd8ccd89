"""`onelook.tune`: searches for hyper-parameters, by a genetic algorithm or by TPE; each trial is a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from onelook.api.open import PathLike
from onelook.api.recipe_choice import RecipeChoice, knows_classes, named_choice, resolved
from onelook.api.run_folder import run_folder, run_name
from onelook.api.splits import open_splits
from onelook.api.trials import BASE, BEST, Launcher, create_study, run_study
from onelook.api.tune_budget import SEEDS, UNLIMITED, forget_comparison, search_and_compare
from onelook.cluster.place import parse_place
from onelook.cluster.ray_workers import device_of, workers_at
from onelook.cluster.workers import LocalProcesses
from onelook.config import check_arguments
from onelook.errors import UsageError, UserError
from onelook.files import write_text
from onelook.recipes import read_recipe
from onelook.reporter import PlainReporter, Reporter
from onelook.training.duration import parse_duration
from onelook.training.preflight import missing_for_metric
from onelook.training.processes import choose_device
from onelook.training.recipe import Recipe
from onelook.training.start import first_weights
from onelook.tuning.genes import default_genes, read_gene
from onelook.tuning.study import STUDY_FILE, Study
from onelook.tuning.tpe import TpeProposer, check_optuna
from onelook.tuning.verdict import Verdict, check_seeds
from onelook.types import text_repr

TRIALS = 30  # unless another number is given
# The arguments of `onelook.train` that all trials share, and their names in the search's file.
Method = Literal["genetic", "tpe"]
_SHARED = {"weights": "weights", "split": "train_split", "validation": "val_split", "workers": "workers"}


@dataclass(frozen=True)
class TuneResult:
    """The result of a hyper-parameter search; of its trials so far where it was stopped.

    folder: of the search.  metric: decides which trial is the best.  rows: the trials, with the values of their
    numbers.  best: number of the best trial, None without one.  interrupted: whether Ctrl-C stopped it.
    resume_command: how the search is continued.  verdict: whether the best recipe beats the starting one, by trainings
    with other seeds; None where it was not asked.  note: why there is no verdict where one was asked for.
    """

    folder: Path
    metric: str
    rows: tuple[dict[str, Any], ...]
    best: int | None
    interrupted: bool
    resume_command: str = ""
    verdict: Verdict | None = None
    note: str = ""

    @property
    def recipe(self) -> Path | None:
        """The file of the best recipe."""
        return None if self.best is None else self.folder / BEST

    @property
    def exit_code(self) -> int:
        """0, 1 where no trial was the best, 130 after Ctrl-C."""
        return 130 if self.interrupted else int(self.best is None)

    @property
    def comparison(self) -> list[str]:
        """Whether the best recipe beats the starting one, in a sentence; [] where it was not asked."""
        return [str(self.verdict)] if self.verdict is not None else [self.note] if self.note else []

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {
            "folder": str(self.folder),
            "metric": self.metric,
            "trials": list(self.rows),
            "best": self.best,
            "recipe": None if self.recipe is None else str(self.recipe),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "note": self.note,
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        best = next((row for row in self.rows if row["trial"] == self.best), None)
        lines = [f"{len(self.rows)} trials in {self.folder}."]
        if best is not None:
            lines.append(f"Best {self.metric} {best['fitness']:.4f}, in trial {self.best}: {self.recipe}")
        lines += self.comparison
        return "\n".join([*lines, *([f"Stopped. To resume: {self.resume_command}"] if self.interrupted else [])])


def tune(
    recipe: Recipe | RecipeChoice | PathLike | None,
    data: PathLike,
    *,
    epochs: int | None = None,
    size: int | None = None,
    batch: int | Literal["auto"] | None = None,
    ranges: Sequence[str] = (),
    weights: PathLike | None = None,
    trials: int | None = None,
    budget: str | float | None = None,
    method: Method | None = None,
    seeds: int | None = None,
    parallel: int | None = None,
    device: str | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    seed: int | None = None,
    split: str | None = None,
    validation: str | None = None,
    workers: int | None = None,
    on: str | None = None,
    resume_command: Callable[[Path], str] | None = None,
    reporter: Reporter | None = None,
) -> TuneResult:
    """Searches for better hyper-parameters of a recipe; each trial is a training in a process of its own.

    recipe, epochs, size, batch: as for `onelook.train`; the overrides of a `RecipeChoice` may be ranges too; a
    recipe of None is that of the search that is resumed.
    data: folder or file of a data set.
    ranges: what is searched, each "path=low..high"; without any the learning rate, momentum, weight decay and the
    weights of the loss.  weights: file that every trial starts from, or the folder of a run.  trials: how many
    trainings, earlier ones of the search included; None is 30, or as many as there is time for.  budget: the time of
    the whole search, such as "30m", "1h30m" or a number of seconds, that of earlier sessions included; None is without
    a limit.  method: "genetic" or "tpe" (Optuna's TPE, which stops bad trials early by successive halving and a median
    rule); None is "tpe" with a budget, "genetic" without.  seeds: with how many seeds the best trial's recipe and the
    starting one are trained in the end, to tell whether it is better; 0 for no such comparison; None is 3 with "tpe" or
    a budget, else 0.
    parallel: trainings at the same time; None is one.
    device: as for `onelook.train`; several, separated by commas, are taken in turn.  out: folder of the search; None is
    runs/tune-NAME.  resume: continue the search in `out`; settings that are None are as they were.  seed: of the search
    itself; None is 0.  split, validation: names of the splits.  workers: processes of each training that prepare
    images.  on: "ray" or "ray://HOST:PORT" trains on a Ray cluster, whose machines share the folders; `parallel` of
    None is then as many trainings as it has room for.  resume_command: how to continue the search in a folder, for the
    result's message.

    Ctrl-C stops the running trainings, which are continued by `resume`. Raises UserError where every trial failed.
    """
    check_arguments(tune, locals())
    if any(number is not None and number < 1 for number in (trials, parallel)):
        raise UsageError("trials and parallel are at least 1.")
    check_seeds(seeds)
    seconds = None if budget is None else parse_duration(budget, "budget")
    given = {
        **{"trials": trials, "parallel": parallel, "device": device, "workers": workers, "on": on},
        **{"budget": seconds, "method": method, "seeds": seeds},
        **{"weights": None if weights is None else os.fspath(weights), "train_split": split, "val_split": validation},
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    choice, among = without_ranges(named_choice(recipe, epochs=epochs, size=size, batch=batch))
    ranges = (*ranges, *among)
    folder = run_folder(out, resume, f"tune-{run_name(choice) or 'recipe'}")
    shown = PlainReporter() if reporter is None else reporter
    if method == "tpe" or (budget is not None and method is None):
        check_optuna()
    study = _resumed_study(folder, choice, ranges, seed, options) if resume else None
    asked = options if study is None else study.options
    place = parse_place(asked.get("on"))
    with workers_at(place, LocalProcesses(), shown, alone=True, device=asked.get("device")) as processes:
        device = device_of(processes, asked.get("device"))
        if study is None:
            on_cpu = (device or "").startswith("cpu") if not place.is_local else _first_device(options).type == "cpu"
            study = _new_study(
                folder, choice, data, options, ranges=ranges, seed=seed or 0, on_cpu=on_cpu, reporter=reporter
            )
        shared = {name: study.options.get(key) for name, key in _SHARED.items()}
        where = os.fspath(data)
        if not place.is_local:  # a worker has another folder of work
            where, folder = os.path.abspath(where), folder.absolute()
            shared["weights"] = shared["weights"] and os.path.abspath(shared["weights"])
        devices = _devices({"device": device} if device else {})
        verdict, note, plan = None, "", SearchPlan.of(study.options, processes.count)
        if plan.method == "tpe":
            study.proposer = TpeProposer(folder, study, study.recipe.epochs)
        if plan.is_plain:
            launcher = Launcher(where, folder, shared, devices, processes)
            interrupted = run_study(study, plan.trials, launcher, plan.parallel, shown)
        else:
            interrupted, verdict, note = search_and_compare(
                study,
                lambda at: Launcher(where, at if place.is_local else at.absolute(), shared, devices, processes),
                trials=plan.trials,
                parallel=plan.parallel,
                seeds=plan.seeds,
                seconds=plan.seconds,
                reporter=shown,
            )
    return finish(study, interrupted, (resume_command or _resume_call)(folder), verdict, note)


@dataclass(frozen=True)
class SearchPlan:
    """How a search is run: the options that it was started with, and what those that were not given are.

    seconds: of the budget, None without one.
    """

    method: Method
    trials: int
    parallel: int
    seeds: int
    seconds: float | None

    @staticmethod
    def of(options: Mapping[str, Any], at_once: int) -> SearchPlan:
        """The plan of a search's options. at_once: trainings at the same time, where no number is given."""
        seconds = options.get("budget")
        usual: Method = "genetic" if seconds is None else "tpe"
        method = options.get("method", usual)
        seeds = SEEDS if method == "tpe" or seconds is not None else 0
        return SearchPlan(
            method=method,
            trials=int(options.get("trials", TRIALS if seconds is None else UNLIMITED)),
            parallel=int(options.get("parallel", at_once)),
            seeds=int(options.get("seeds", seeds)),
            seconds=seconds,
        )

    @property
    def is_plain(self) -> bool:
        """Whether it is a number of trials, and nothing else."""
        return self.seconds is None and self.seeds == 0


def without_ranges(choice: Recipe | RecipeChoice) -> tuple[Recipe | RecipeChoice, list[str]]:
    """Splits the overrides of a choice: those with one value stay in it, the ranges to search are returned."""
    if not isinstance(choice, RecipeChoice):
        return choice, []
    ranges = [setting for setting in choice.overrides if is_range(setting)]
    return replace(choice, overrides=tuple(one for one in choice.overrides if one not in ranges)), ranges


def is_range(setting: str) -> bool:
    """Whether a setting is a range to search."""
    return ".." in setting.partition("=")[2]


def _devices(options: Mapping[str, Any]) -> list[str | None]:
    """The devices that the trials use in turn."""
    return [*str(options["device"]).split(",")] if "device" in options else [None]


def _first_device(options: Mapping[str, Any]) -> torch.device:
    """The first device of the trials; UserError where this machine does not have it."""
    return choose_device(_devices(options)[0])


def _resumed_study(
    folder: Path,
    choice: Recipe | RecipeChoice,
    ranges: Sequence[str],
    seed: int | None,
    options: Mapping[str, Any],
) -> Study:
    """Opens the search in a folder, with new options; UserError where it would search something else."""
    refused = [] if seed is None else ["seed"]
    if isinstance(choice, RecipeChoice):
        named = ("model", "recipe", "epochs", "size", "batch")
        given = [name for name in named if getattr(choice, name) is not None]
        refused = [*given, *refused, *choice.overrides]
    else:
        refused.append("the recipe")
    refused += ranges
    if refused:
        raise UsageError(
            "A resumed search keeps its settings.",
            f"Leave away: {', '.join(refused)}; or begin a new search in another folder (out).",
        )
    study = Study.read(folder, read_recipe(folder / BASE), write_text)
    before = SearchPlan.of(study.options, 1)
    study.options = {**study.options, **options}
    now = SearchPlan.of(study.options, 1)
    if now.method != before.method:
        raise UsageError(
            f"The search in '{folder}' is by method {before.method}, not {now.method}.",
            "Leave the method away, or begin a new search in another folder (out).",
        )
    if (now.seconds, now.trials) != (before.seconds, before.trials):
        forget_comparison(study)
    if now.method == "tpe":
        check_optuna()
    if parse_place(study.options.get("on")).is_local:
        _first_device(options)
    study.save()
    return study


def _new_study(
    folder: Path,
    choice: Recipe | RecipeChoice,
    data: PathLike,
    options: Mapping[str, Any],
    *,
    ranges: Sequence[str],
    seed: int,
    on_cpu: bool,
    reporter: Reporter | None,
) -> Study:
    """Creates a search in a folder; UserError where no trial could be better than another."""
    if (folder / STUDY_FILE).exists():
        raise UserError(f"'{folder}' holds a search already.", "Continue it (resume), or choose another folder (out).")
    training, validation, _ = open_splits(data, options.get("train_split"), options.get("val_split"), reporter=reporter)
    if validation is None:
        raise UserError(
            "There is nothing to evaluate on, so no trial is better than another.",
            "Give --val-split (in Python: validation).",
        )
    weights = first_weights(options.get("weights"))
    known = knows_classes(choice, training, weights)
    chosen = resolved(choice, training, has_weights=weights is not None, knows_classes=known, on_cpu=on_cpu)
    if lacking := missing_for_metric(chosen.metric, validation):
        raise UserError(
            f"The validation split has no {lacking}: {chosen.metric} is undefined on it, so no trial is better "
            "than another.",
            "Choose another with --val-split (in Python: validation), or another metric.",
        )
    genes = tuple(read_gene(one, chosen) for one in ranges) or default_genes(chosen)
    return create_study(folder, chosen, genes, seed, options)


def _resume_call(folder: Path) -> str:
    return f"call onelook.tune again with out='{folder}' and resume=True"


def finish(
    study: Study,
    interrupted: bool,
    resume_command: str = "",
    verdict: Verdict | None = None,
    note: str = "",
) -> TuneResult:
    """The result of a search that has ended or was interrupted. Raises UserError where every trial failed."""
    if not interrupted and study.best is None:
        first = next((trial for trial in study.trials if trial.error), None)
        reason = first.error if first is not None else "none was begun"
        raise UserError(f"All {len(study.trials)} trials failed: {reason}", f"Look at {study.folder}{os.sep}*.log.")
    best = None if study.best is None else study.best.number
    rows = tuple(study.rows())
    return TuneResult(study.folder, study.recipe.metric, rows, best, interrupted, resume_command, verdict, note)
