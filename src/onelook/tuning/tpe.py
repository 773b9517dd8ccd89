"""Hyper-parameter search with Optuna: tree-structured Parzen estimators, successive halving, and a median rule.

TPE: Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011. Successive halving: Li et al., A System for
Massively Parallel Hyperparameter Tuning, 2018. The median rule: Golovin et al., Google Vizier, 2017, sec. 3.2.1.

Optuna's journal in the folder of the search has the trials with their scores of every evaluated epoch, so that a search
goes on after a kill. The trials themselves are those of the `Study`: one that only the journal has is used next, one
that the journal lacks is added to it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onelook.errors import UserError, missing_package
from onelook.tuning.genes import Gene
from onelook.tuning.study import Study, Trial

JOURNAL = "optuna.log"
RANDOM_TRIALS = 5  # with the recipe itself, before TPE models the trials: as many as the genetic algorithm begins with
FULL_TRIALS = 3  # trials that were trained to their end before the median of an epoch says anything
REDUCTION = 2  # of two trials that reach a rung of successive halving, one is trained on


def check_optuna() -> None:
    """Raises MissingDependencyError where Optuna is not installed."""
    _optuna()


def first_rung(epochs: int) -> int:
    """The epoch of the first comparison: a quarter of the training.

    Before, the warm-up and the moving average of the weights decide the order of trials, not their settings.
    """
    return max(1, math.ceil(epochs / 4))


class TpeProposer:
    """Proposes trials by TPE, and stops those that successive halving or the median rule finds worse than others.

    The first trial is the recipe itself, and is never stopped: its time is the measure of the others.
    """

    def __init__(self, folder: Path, study: Study, epochs: int) -> None:
        self._study, self._epochs = study, epochs
        self._optuna, self._distributions = _optuna(), _distributions(study.genes)
        self._live: dict[int, Any] = {}
        path = folder / JOURNAL
        with _silent():
            try:
                self._search = self._open(path)
                self._restore(study.trials)
            except (ValueError, KeyError, AssertionError, OSError) as error:
                raise UserError(
                    f"'{path}', Optuna's record of the search, cannot be read ({type(error).__name__}: {error}).",
                    "Remove that file: the search then goes on from its own record, study.json.",
                ) from error

    def propose(self, study: Study, number: int) -> tuple[float | int, ...]:
        """The values of trial `number`: the recipe's own, then random ones, then those of TPE."""
        with _silent():
            known = self._search.get_trials(deepcopy=False)
            waiting = self._optuna.trial.TrialState.WAITING  # enqueued, and not asked for yet
            if number < len(known) and known[number].state != waiting:  # killed before the study had saved it
                values = known[number].params
            else:
                # A seed for each trial, so that a resumed search proposes what the uninterrupted one would have.
                self._search.sampler = self._sampler(number)
                if number == 0 and not known:
                    start = zip(study.genes, study.start)
                    inside = {gene.path: gene.from_fraction(gene.to_fraction(value)) for gene, value in start}
                    self._search.enqueue_trial(inside)
                asked = self._search.ask(self._distributions)
                self._live[number], values = asked, asked.params
        return tuple(_rounded(gene, values[gene.path]) for gene in study.genes)

    def stops(self, trial: Trial, scores: Mapping[int, float]) -> bool:
        """Reports the scores of new epochs; True where halving or the median rule stops the trial."""
        with _silent():
            live = self._trial(trial.number)
            known = self._search.get_trials(deepcopy=False)[trial.number].intermediate_values
            stopped = False
            for epoch, score in sorted(scores.items()):
                if epoch in known:
                    continue
                live.report(score, epoch)
                stopped = bool(live.should_prune()) or stopped
        return stopped and trial.number > 0

    def finish(self, trial: Trial) -> None:
        """Tells Optuna the result of a trial."""
        state, trial_states = None, self._optuna.trial.TrialState
        if trial.fitness is None:
            state = trial_states.PRUNED if trial.status == "stopped" else trial_states.FAIL
        with _silent():
            self._search.tell(trial.number, trial.fitness, state=state, skip_if_finished=True)

    def _open(self, path: Path) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return self._optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name="onelook",
            direction="maximize",
            load_if_exists=True,
            sampler=self._sampler(0),
            pruner=_pruner(self._optuna, self._epochs),
        )

    def _sampler(self, number: int) -> Any:
        seed = (self._study.seed * 1_000_003 + number) % 2**32
        return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)

    def _restore(self, trials: Sequence[Trial]) -> None:
        """Adds to the journal what it lacks of the trials."""
        states = self._optuna.trial.TrialState
        known = self._search.get_trials(deepcopy=False)
        for trial in trials:
            if trial.number >= len(known):
                values = {gene.path: value for gene, value in zip(self._study.genes, trial.values)}
                self._search.add_trial(
                    self._optuna.trial.create_trial(
                        state=states.RUNNING, params=values, distributions=self._distributions
                    )
                )
            if trial.status != "running":
                self.finish(trial)

    def _trial(self, number: int) -> Any:
        """Optuna's trial of a number; after a resume it is made from the journal."""
        if number not in self._live:
            frozen = self._search.get_trials(deepcopy=False)[number]
            self._live[number] = self._optuna.trial.Trial(self._search, frozen._trial_id)
        return self._live[number]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_package("optuna", "A search within a budget, or by TPE,") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def _silent() -> Iterator[None]:
    """Hides what Optuna warns of that users can do nothing about: which of its parts it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _distributions(genes: Sequence[Gene]) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        gene.path: IntDistribution(math.ceil(gene.low), math.floor(gene.high), log=gene.logarithmic)
        if gene.whole
        else FloatDistribution(gene.low, gene.high, log=gene.logarithmic)
        for gene in genes
    }


def _rounded(gene: Gene, value: float) -> float | int:
    """A value as the genetic algorithm writes it: five digits, inside the bounds."""
    return int(value) if gene.whole else min(max(float(f"{value:.5g}"), gene.low), gene.high)


def _pruner(optuna: Any, epochs: int) -> Any:
    first = first_rung(epochs)
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    median = optuna.pruners.MedianPruner(n_startup_trials=FULL_TRIALS, n_warmup_steps=first)

    class Either(optuna.pruners.BasePruner):
        """Stops a trial where one of the two rules does."""

        def prune(self, study: Any, trial: Any) -> bool:
            # Both are asked: halving records at each call which rung the trial has reached.
            return any([halving.prune(study, trial), median.prune(study, trial)])

    return Either()
