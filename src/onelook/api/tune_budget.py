"""A search within a time: its trials first, then the best of them against the starting recipe with other seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onelook.api.trials import BASE, Launcher, SearchBudget, create_study, run_study
from onelook.config import get
from onelook.errors import UserError
from onelook.files import write_text
from onelook.reporter import Reporter
from onelook.training.result import format_duration
from onelook.tuning.study import STUDY_FILE, Study, Trial
from onelook.tuning.verdict import SEED_GENE, SeedProposer, Verdict, compare_seeds

SEEDS = 3  # trainings of each recipe in the comparison, unless another number is given; two have a useless interval
VERDICT = "verdict.json"
UNLIMITED = 100_000  # trials, of a search that a budget ends
_SPENT, _SEARCHED = "spent", "searched"  # options of the study
_SAVE_EVERY = 30.0  # seconds between two records of the time that is spent
_END_SHARE = 0.01  # of the budget, kept for saving the trainings that are running when it ends
_FAILURES = 3  # of the first trials, after which a search does not try more
_COMPARED_SHARE = 0.5  # of the budget, at most, is kept for the comparison


class Clock:
    """The time that a search has spent in all its sessions, which its study records.

    seconds: of the budget; None is without a limit.
    """

    def __init__(self, study: Study, seconds: float | None) -> None:
        self.study, self.seconds = study, seconds
        trained = sum(trial.seconds for trial in study.trials)  # of a search that had no budget until now
        self._before, self._begin = float(study.options.get(_SPENT, trained)), time.monotonic()
        self._saved = self._begin

    @property
    def spent(self) -> float:
        """Seconds so far; also written to the study, from time to time."""
        now = time.monotonic()
        spent = self._before + now - self._begin
        self.study.options[_SPENT] = round(spent, 1)
        if now - self._saved > _SAVE_EVERY:
            self._saved = now
            self.study.save()
        return spent

    @property
    def left(self) -> float:
        """Seconds until running trainings are saved and stopped."""
        return float("inf") if self.seconds is None else self.seconds * (1 - _END_SHARE) - self.spent


class Phase(SearchBudget):
    """The part of a budget that one phase of a search may use.

    kept: seconds that are kept for what follows.  trial: seconds of the longest training so far, 0 before one is done.
    """

    def __init__(self, clock: Clock, trial: Callable[[], float], kept: Callable[[], float] = lambda: 0.0) -> None:
        self._clock, self._trial, self._kept = clock, trial, kept

    @property
    def exhausted(self) -> bool:
        return self._clock.left <= 0

    def has_room(self, study: Study) -> bool:
        """Whether another training is expected to end in time; not where none of the first has worked."""
        failed = [trial.status == "failed" for trial in study.trials]
        if len(failed) >= _FAILURES and all(failed):
            return False
        return self._clock.left - self._kept() > self._trial()

    def progress(self) -> tuple[float, float]:
        return self._clock.spent, self._clock.seconds or 0.0


def longest_training(study: Study) -> float:
    """Seconds of the longest trial that was trained to its end; 0 without one."""
    return max((trial.seconds for trial in study.trials if trial.status == "done"), default=0.0)


def search_and_compare(
    study: Study,
    launch: Callable[[Path], Launcher],
    *,
    trials: int,
    parallel: int,
    seeds: int,
    seconds: float | None,
    reporter: Reporter,
) -> tuple[bool, Verdict | None, str]:
    """Runs a search and the comparison that follows; both are continued where they were.

    launch: the launcher of the trials in a folder.  seeds: trainings of each recipe in the comparison, 0 for none.
    Returns whether Ctrl-C stopped it, the comparison, and what to know where there is none. UserError where the budget
    ends before any trial does.
    """
    clock = Clock(study, seconds)

    def kept() -> float:
        """Seconds of the comparison, as if its trainings took as long as the longest so far; 0 where none is needed."""
        if study.best is None or _is_start(study, study.best):
            return 0.0
        return min(2 * seeds * longest_training(study) / parallel, _COMPARED_SHARE * (seconds or 0.0))

    if not study.options.get(_SEARCHED):
        phase = None if seconds is None else Phase(clock, lambda: longest_training(study), kept)
        if run_study(study, trials, launch(study.folder), parallel, reporter, budget=phase):
            return True, None, ""
        study.options |= {_SEARCHED: study.best is not None, _SPENT: round(clock.spent, 1)}
        study.save()
    best = study.best
    if best is None:
        if seconds is not None and study.unfinished():
            raise UserError(
                f"The budget of {format_duration(seconds)} ended before the first trial did, which is saved.",
                "Continue it with a larger budget (resume), or begin another search with fewer epochs.",
            )
        return False, None, ""
    if _is_start(study, best):
        count = sum(trial.status != "running" for trial in study.trials) - 1
        others = "1 other trial" if count == 1 else f"{count} other trials"
        return False, None, f"The starting recipe was not beaten by {others}: keep {BASE}."
    if seeds == 0:
        return False, None, f"Trial {best.number} was not compared with the starting recipe by other seeds."
    return _compare(study, best, launch, clock, seeds=seeds, parallel=parallel, reporter=reporter)


def _is_start(study: Study, trial: Trial) -> bool:
    """Whether a trial is of the starting recipe.

    The first trial's values have five digits, and are inside the ranges: an end of one where the recipe's are not.
    """
    return trial.number == 0 and bool(np.allclose(trial.values, study.start, rtol=1e-4))


def _compare(
    study: Study,
    best: Trial,
    launch: Callable[[Path], Launcher],
    clock: Clock,
    *,
    seeds: int,
    parallel: int,
    reporter: Reporter,
) -> tuple[bool, Verdict | None, str]:
    """Trains the starting recipe and the best trial's with seeds that the search did not use."""
    folder = study.folder / f"seeds-{best.name}"
    if (folder / STUDY_FILE).is_file():
        other = Study.read(folder, study.recipe, write_text)
    else:
        other = create_study(folder, study.recipe, (*study.genes, SEED_GENE), study.seed)
    start = tuple(get(study.recipe, gene.path) for gene in study.genes)
    other.proposer = SeedProposer(start, best.values, study.recipe.seed)
    trial = longest_training(study)
    open_pairs = seeds - sum(one.status != "running" for one in other.trials) // 2
    fitting = open_pairs
    if clock.seconds is not None:
        fitting = min(open_pairs, max(0, int(clock.left * parallel / max(2 * trial, 1e-9))))
    count = seeds - open_pairs + fitting
    missing = f"Trial {best.number} was not compared with the starting recipe by other seeds: "
    if count < 2:
        needed = format_duration(2 * seeds * trial / parallel)
        needed = f"{seeds} trainings of each take about {needed} more. Continue with a larger budget."
        return False, None, missing + needed
    if fitting:
        reporter.info(
            f"Comparing trial {best.number} with the starting recipe: {count} seeds that the search did not use, a "
            f"training of each in {folder}."
        )
    phase = None if clock.seconds is None else Phase(clock, lambda: 0.0)
    interrupted = run_study(other, 2 * count, launch(folder), parallel, reporter, budget=phase, title="comparison")
    study.options[_SPENT] = round(clock.spent, 1)
    study.save()
    verdict = compare_seeds(other.trials, best.number, study.recipe.metric)
    if interrupted:
        return True, verdict, ""
    if verdict is None:
        why = f"fewer than two trainings of each were done in time, or they failed (see {folder})."
        return False, None, missing + why
    write_text(study.folder / VERDICT, json.dumps(verdict.to_dict(), indent=1) + "\n")
    return False, verdict, ""


def forget_comparison(study: Study) -> None:
    """Lets the search go on, where it is resumed with a larger budget or more trials than it was ended by."""
    study.options.pop(_SEARCHED, None)
