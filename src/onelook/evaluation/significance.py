"""Whether two models differ in AP: a paired bootstrap over images, with Holm's correction for several comparisons.

The images are resampled with replacement, the same images for all models (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993). What one image tells of two models is so much alike that the difference is known far better than each
AP alone. The uncertainty is that of the images: which images happened to be in the data set. Another training of the
same model differs, too; that is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onelook.evaluation.matches import MatchTable
from onelook.types import UNDEFINED

LEVEL = 0.95  # of the intervals; a difference is called one where its p-value is below 1 - LEVEL
_SHARES = (50 * (1 - LEVEL), 50 * (1 + LEVEL))  # percentiles


@dataclass(frozen=True)
class Difference:
    """The AP of a second model minus that of a first.

    value: on the data set as it is.  low, high: of the 95 % interval.  p: two-sided p-value.  adjusted: the p-value for
    all comparisons together, by Holm's method.
    """

    value: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def is_significant(self) -> bool:
        """Whether the models differ, with an error rate of 5 % over all comparisons."""
        return self.adjusted < 1 - LEVEL


def resample(
    models: Sequence[MatchTable],
    resamples: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """(models, resamples, C) AP of every class on resampled images, the same for all; NaN where there are no objects.

    progress: called with the resamples done, and all.
    """
    rng = np.random.default_rng(seed)
    count, classes = models[0].num_images, models[0].num_classes
    found = np.empty((len(models), resamples, classes))
    for row in range(resamples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)
        for number, one in enumerate(models):
            values = one.average_precision(weights)
            found[number, row] = np.where(values > UNDEFINED, values, np.nan).mean(-1)
        progress(row + 1, resamples)
    return found


def mean_of_classes(samples: np.ndarray) -> np.ndarray:
    """(..., C) AP of classes -> (...,) AP, of the classes that have objects; NaN where none has."""
    defined = np.isfinite(samples)
    count = defined.sum(-1)
    total = np.where(defined, samples, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(samples: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of resampled values, by percentiles; None where none is defined."""
    defined = samples[np.isfinite(samples)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, _SHARES)
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """The two-sided p-value of resampled differences: 1 where they are all zero, never 0."""
    defined = differences[np.isfinite(differences)]
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(defined) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda one: values[one])):
        largest = max(largest, min(1.0, values[place] * (len(values) - rank)))
        adjusted[place] = largest
    return adjusted


def compare_pairs(
    values: Sequence[float], samples: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> list[Difference | None]:
    """The difference of each pair of models; None where AP is undefined.

    values: AP of each model.  samples: (models, resamples) resampled AP.  pairs: (first, second) numbers of models.
    """
    ranges = [interval(samples[second] - samples[first]) for first, second in pairs]
    adjusted = iter(
        holm([p_value(samples[second] - samples[first]) for (first, second), one in zip(pairs, ranges) if one])
    )
    found: list[Difference | None] = []
    for (first, second), one in zip(pairs, ranges):
        if one is None:
            found.append(None)
            continue
        p = p_value(samples[second] - samples[first])
        found.append(Difference(values[second] - values[first], *one, p, next(adjusted)))
    return found
