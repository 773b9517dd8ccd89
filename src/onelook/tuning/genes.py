"""The genetic algorithm of hyper-parameter search: search ranges, mutation, crossover (YOLOv4 sec. 3.3 and 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.config import get
from onelook.errors import ConfigError, UsageError

_DEFAULTS: tuple[tuple[str, float, float], ...] = (
    # path, factors on the present value: the settings that the paper's search chose, if the recipe has them
    ("optimizer.lr_per_image", 0.25, 4.0),
    ("optimizer.weight_decay", 0.25, 4.0),
)
_MOMENTUM = ("optimizer.momentum", 0.8, 0.98)
_WEIGHT_RANGE = (0.3, 3.0)  # factors on the weight of each term of the loss


@dataclass(frozen=True)
class Gene:
    """The search range of one number of a recipe: its path and its bounds `low` and `high`.

    The search is logarithmic where both bounds are positive and a factor of ten or more apart.
    whole: whether it is a whole number.
    """

    path: str
    low: float
    high: float
    whole: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether the search is on a logarithmic scale."""
        return self.low > 0 and self.high >= 10 * self.low

    def to_fraction(self, value: float) -> float:
        """The position of a value between the bounds, 0 to 1; values outside are clipped."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def from_fraction(self, position: float) -> float | int:
        """The value at a position between 0 and 1, rounded to five digits, or to a whole number."""
        position = min(max(position, 0.0), 1.0)
        if self.logarithmic:
            value = self.low * (self.high / self.low) ** position
        else:
            value = self.low + position * (self.high - self.low)
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.5g}"), self.low), self.high)


def read_gene(text: str, recipe: Any) -> Gene:
    """Parses "path=low..high". Raises UsageError for an invalid range or path, or a setting that is no number."""
    path, _, bounds = text.partition("=")
    low, _, high = bounds.partition("..")
    try:
        start, stop = float(low), float(high)
    except ValueError:
        raise UsageError(
            f"'{text}' is no range.", "Write path=low..high, such as optimizer.momentum=0.8..0.98."
        ) from None
    if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
        raise UsageError(f"'{text}' is no range: the first bound is below the second.")
    present = get(recipe, path)
    if isinstance(present, bool) or not isinstance(present, int | float):
        raise UsageError(f"'{path}' is no number but {present!r}.", "Only numbers can be searched in a range.")
    return Gene(path, start, stop, isinstance(present, int))


def default_genes(recipe: Any) -> tuple[Gene, ...]:
    """The default search ranges: learning rate, weight decay, momentum, and the weights of the loss terms."""
    found = []
    for path, below, above in _DEFAULTS:
        if present := _number(recipe, path):
            found.append(Gene(path, present * below, present * above))
    if _number(recipe, _MOMENTUM[0]):
        found.append(Gene(*_MOMENTUM))
    for term in getattr(recipe.loss, "terms", ()):
        path = f"loss.terms.{term.name}.weight"
        if present := _number(recipe, path):
            found.append(Gene(path, present * _WEIGHT_RANGE[0], present * _WEIGHT_RANGE[1]))
    return tuple(found)


def _number(recipe: Any, path: str) -> float:
    """The number at a path, 0 where there is none."""
    try:
        value = get(recipe, path)
    except ConfigError:
        return 0.0
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


@dataclass(frozen=True)
class Evolution:
    """The genetic algorithm: proposes the values of the next trial from the finished ones.

    random_trials: random trials after the first one, which is the recipe itself.  parents: how many of the best trials
    are parents; better ones are chosen more often.  crossover_probability: that a child takes each number from either
    of two parents.  mutation_probability: of each number.  mutation_scale: standard deviation of a mutation, as a
    fraction of the range between the bounds.

    As in the code of the paper's author: children of the best five, four of five numbers changed by the product of a
    normal and a uniform random number.
    """

    random_trials: int = 4
    parents: int = 5
    crossover_probability: float = 0.3
    mutation_probability: float = 0.8
    mutation_scale: float = 0.25

    def propose(
        self,
        genes: Sequence[Gene],
        start: Sequence[float],
        done: Sequence[tuple[Sequence[float], float]],
        rng: np.random.Generator,
        number: int,
    ) -> tuple[float | int, ...]:
        """The values of trial `number`.

        start: the recipe's own values.  done: values and fitness (more is better) of finished trials.
        """
        if number == 0:
            return tuple(gene.from_fraction(gene.to_fraction(value)) for gene, value in zip(genes, start))
        if number <= self.random_trials or not done:
            return tuple(gene.from_fraction(position) for gene, position in zip(genes, rng.random(len(genes))))
        best = sorted(done, key=lambda one: -one[1])[: self.parents]
        weights = np.arange(len(best), 0, -1.0)
        first, second = (best[int(i)][0] for i in rng.choice(len(best), 2, p=weights / weights.sum()))
        crosses = rng.random() < self.crossover_probability
        known = {tuple(values) for values, _ in done}
        for _ in range(100):
            takes = rng.random(len(genes)) < 0.5
            parent = [b if crosses and take else a for a, b, take in zip(first, second, takes)]
            change = rng.normal(0, 1, len(genes)) * rng.random(len(genes)) * self.mutation_scale
            change = np.where(rng.random(len(genes)) < self.mutation_probability, change, 0.0)
            positions = [gene.to_fraction(value) + step for gene, value, step in zip(genes, parent, change.tolist())]
            child = tuple(gene.from_fraction(position) for gene, position in zip(genes, positions))
            if child not in known:
                return child
        return child
