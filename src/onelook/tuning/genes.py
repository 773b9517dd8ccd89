"""The numbers of a recipe that a search may change, and how they mutate (YOLOv4 sec. 3.4, "genetic algorithms")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelook.config import get
from onelook.errors import ConfigError, UsageError

_DEFAULTS: tuple[tuple[str, float, float], ...] = (
    # path, factors on the present value: the settings that the paper's search chose, where a recipe has them
    ("optimizer.lr_per_image", 0.25, 4.0),
    ("optimizer.weight_decay", 0.25, 4.0),
)
_MOMENTUM = ("optimizer.momentum", 0.8, 0.98)
_SPREAD = (0.3, 3.0)  # factors on the weight of each term of the loss


@dataclass(frozen=True)
class Gene:
    """One number of a recipe, by its path, between `low` and `high`.

    Positive bounds a factor of ten or more apart are searched in logarithms.  whole: whether it is a whole number.
    """

    path: str
    low: float
    high: float
    whole: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether equal factors count as equal steps."""
        return self.low > 0 and self.high >= 10 * self.low

    def place(self, value: float) -> float:
        """Where a value lies between the bounds, 0 to 1; beyond them it is at the nearer one."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, place: float) -> float | int:
        """The value at a place between 0 and 1, rounded to five digits, or to a whole number."""
        place = min(max(place, 0.0), 1.0)
        if self.logarithmic:
            value = self.low * (self.high / self.low) ** place
        else:
            value = self.low + place * (self.high - self.low)
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.5g}"), self.low), self.high)


def read_gene(text: str, recipe: Any) -> Gene:
    """The gene in "path=low..high". Raises UsageError for what is no range, no path, or no number in the recipe."""
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
    """The numbers that are searched when nobody says which: rates, momentum, and the weights of the loss."""
    found = []
    for path, below, above in _DEFAULTS:
        if present := _number(recipe, path):
            found.append(Gene(path, present * below, present * above))
    if _number(recipe, _MOMENTUM[0]):
        found.append(Gene(*_MOMENTUM))
    for term in getattr(recipe.loss, "terms", ()):
        path = f"loss.terms.{term.name}.weight"
        if present := _number(recipe, path):
            found.append(Gene(path, present * _SPREAD[0], present * _SPREAD[1]))
    return tuple(found)


def _number(recipe: Any, path: str) -> float:
    """The number at a path, 0 where there is none."""
    try:
        place = get(recipe, path)
    except ConfigError:
        return 0.0
    return float(place) if isinstance(place, int | float) and not isinstance(place, bool) else 0.0


@dataclass(frozen=True)
class Evolution:
    """What is tried next.

    founders: trials at random places, after the recipe itself.  parents: how many of the best may have children; the
    better, the likelier.  crossed: probability that a child takes each number from either of two parents.  mutated:
    probability of each number to mutate.  spread: deviation of a mutation, as a part of the way between the bounds.

    The form is the paper's author's: children of the best five, four of five numbers changed by a product of a normal
    and a uniform draw.
    """

    random_trials: int = 4
    parents: int = 5
    crossover_probability: float = 0.3
    mutation_probability: float = 0.8
    spread: float = 0.25

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
            return tuple(gene.value(gene.place(value)) for gene, value in zip(genes, start))
        if number <= self.random_trials or not done:
            return tuple(gene.value(place) for gene, place in zip(genes, rng.random(len(genes))))
        best = sorted(done, key=lambda one: -one[1])[: self.parents]
        weights = np.arange(len(best), 0, -1.0)
        first, second = (best[int(i)][0] for i in rng.choice(len(best), 2, p=weights / weights.sum()))
        crosses = rng.random() < self.crossover_probability
        known = {tuple(values) for values, _ in done}
        for _ in range(100):
            takes = rng.random(len(genes)) < 0.5
            parent = [b if crosses and take else a for a, b, take in zip(first, second, takes)]
            change = rng.normal(0, 1, len(genes)) * rng.random(len(genes)) * self.spread
            change = np.where(rng.random(len(genes)) < self.mutation_probability, change, 0.0)
            places = [gene.place(value) + step for gene, value, step in zip(genes, parent, change.tolist())]
            child = tuple(gene.value(place) for gene, place in zip(genes, places))
            if child not in known:
                return child
        return child
