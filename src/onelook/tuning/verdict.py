"""Whether the best recipe of a search beats the one it started from: both trained with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.errors import UsageError
from onelook.tuning.genes import Gene
from onelook.tuning.study import Study, Trial

LEVEL = 0.95  # of the interval
# Student's t for two-sided intervals of 95 %, by degrees of freedom from 1 on (any table of the distribution).
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MOST_SEEDS = len(_STUDENT) + 1
SEED_GENE = Gene("seed", 0, 2**31 - 1, whole=True)


def check_seeds(seeds: int | None) -> None:
    """UsageError for a number of seeds that gives no interval."""
    if seeds is not None and seeds != 0 and not 2 <= seeds <= MOST_SEEDS:
        raise UsageError(
            f"seeds is 2 to {MOST_SEEDS}, or 0 for no second look at the best trial, not {seeds}.",
            "One training with each recipe has no interval.",
        )


@dataclass(frozen=True)
class Verdict:
    """The comparison of a search's best trial with the recipe that it started from.

    trial: number of the best trial.  metric: its name.  seeds: of the trainings.  start, best: the metric of each
    recipe, one number a seed.  The seeds are not those of the search: the best of many trials was also the luckiest.
    """

    trial: int
    metric: str
    seeds: tuple[int, ...]
    start: tuple[float, ...]
    best: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The mean over the seeds of the best trial's metric minus the start's."""
        return float(np.mean(np.subtract(self.best, self.start)))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference: Student's t of the differences of each seed."""
        differences = np.subtract(self.best, self.start)
        count = len(differences)
        reach = _STUDENT[count - 2] * float(np.std(differences, ddof=1)) / math.sqrt(count)
        return self.difference - reach, self.difference + reach

    @property
    def beats(self) -> bool:
        """Whether the best trial is better than the start: the whole interval lies above zero."""
        return self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON holds it."""
        return {
            "trial": self.trial,
            "seeds": list(self.seeds),
            "start": list(self.start),
            "best": list(self.best),
            "difference": self.difference,
            "interval": list(self.interval),
            "beats": self.beats,
            "sentence": str(self),
        }

    def __str__(self) -> str:
        low, high = self.interval
        start, best = float(np.mean(self.start)), float(np.mean(self.best))
        numbers = (
            f"{self.difference:+.4f} {self.metric} [{low:+.4f}, {high:+.4f}] over {len(self.seeds)} seeds that the "
            f"search did not use ({start:.4f} to {best:.4f})"
        )
        if self.beats:
            return f"Trial {self.trial} beats the starting recipe: {numbers}."
        if high < 0:
            return f"Trial {self.trial} does not beat the starting recipe, it is worse: {numbers}. Keep base.yaml."
        return (
            f"Trial {self.trial} does not beat the starting recipe: {numbers}; the interval holds zero. "
            "Keep base.yaml, or give the search more time."
        )


@dataclass(frozen=True)
class SeedProposer:
    """The trainings of a comparison: for each seed one with the starting recipe, then one with the best trial's.

    start, best: values of the genes.  first: the seed before the first one.
    """

    start: tuple[float | int, ...]
    best: tuple[float | int, ...]
    first: int

    def propose(self, study: Study, number: int) -> tuple[float | int, ...]:
        return (*(self.best if number % 2 else self.start), self.first + 1 + number // 2)

    def stops(self, trial: Trial, scores: Mapping[int, float]) -> bool:
        """Every training goes to its end."""
        return False

    def finish(self, trial: Trial) -> None:
        """The study has the trials."""


def compare_seeds(trials: Sequence[Trial], best: int, metric: str) -> Verdict | None:
    """The comparison of the seeds with which both trainings are done; None of fewer than two.

    trials: as `SeedProposer` proposes them.  best: number of the search's best trial.
    """
    pairs = [
        (int(first.values[-1]), first.fitness, second.fitness)
        for first, second in zip(trials[::2], trials[1::2])
        if first.fitness is not None and second.fitness is not None
    ]
    if len(pairs) < 2:
        return None
    seeds, start, found = zip(*pairs)
    return Verdict(best, metric, tuple(seeds), tuple(start), tuple(found))
