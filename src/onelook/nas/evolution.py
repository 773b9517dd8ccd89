"""The evolutionary search of MAE-NAS (DAMO-YOLO sec. 2.1): children of the best structures within the budgets.

The search runs in rounds. Every round has a fixed number of parts, each of which has its own random numbers and begins
with the same population; afterwards the populations of the parts are merged. So the result depends on the seed alone,
not on how many processes compute the parts.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from onelook.errors import UserError
from onelook.nas.cost import Cost, cost
from onelook.nas.score import DAMO_YOLO_WEIGHTS, Weights, score
from onelook.nas.space import pick
from onelook.networks.branched_structure import AnyStructure

PARTS = 4  # of a round
PART_EVALUATIONS = 512


@dataclass(frozen=True)
class Budgets:
    """Upper limits of a structure's cost; None is without one.

    layers, parameters, flops: see `cost.Cost`.  seconds: of one image, as the search's latency model predicts them.
    """

    layers: int | None = None
    parameters: float | None = None
    flops: float | None = None
    seconds: float | None = None

    def allow(self, count: Cost) -> bool:
        """Whether a cost is within the limits of layers, parameters and flops."""
        return (
            (self.layers is None or count.layers <= self.layers)
            and (self.parameters is None or count.parameters <= self.parameters)
            and (self.flops is None or count.flops <= self.flops)
        )


class SearchSpace(Protocol):
    """Structures of one form; `Space`, `DarknetSpace` and `ElanSpace` are such."""

    @property
    def initial(self) -> Any: ...

    @property
    def smallest(self) -> Any: ...

    def contains(self, structure: Any) -> bool: ...

    def mutate(self, parent: Any, rng: Random) -> Any: ...


@dataclass(frozen=True)
class Task:
    """What is searched: structures of a space with the best score within the budgets, for images of `size` pixels.

    latency: predicts the seconds of a structure; needed for a budget of seconds only.  population: how many structures
    are kept.
    """

    space: SearchSpace
    budgets: Budgets
    size: int
    seed: int = 0
    weights: Weights = DAMO_YOLO_WEIGHTS
    population: int = 512
    latency: Callable[[AnyStructure], float] | None = field(default=None, compare=False)

    def allows(self, structure: AnyStructure) -> bool:
        """Whether a structure is within all budgets."""
        if not self.budgets.allow(cost(structure, self.size)):
            return False
        limit = self.budgets.seconds
        return limit is None or self.latency is None or self.latency(structure) <= limit


@dataclass
class Population:
    """The best different structures so far: pairs of score and structure, best first."""

    limit: int
    members: list[tuple[float, AnyStructure]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known = {structure for _, structure in self.members}

    def takes(self, value: float, structure: AnyStructure) -> bool:
        """Whether a structure is new, and better than the worst of a full population."""
        full = len(self.members) >= self.limit
        return not (full and value <= self.members[-1][0]) and structure not in self._known

    def add(self, value: float, structure: AnyStructure) -> bool:
        """Adds a structure; False where the population does not take it."""
        if not self.takes(value, structure):
            return False
        insort(self.members, (value, structure), key=_order)
        self._known.add(structure)
        if len(self.members) > self.limit:
            self._known.discard(self.members.pop()[1])
        return True


def _order(member: tuple[float, AnyStructure]) -> float:
    return -member[0]


def evolve_part(task: Task, members: Iterable[tuple[float, AnyStructure]], turn: int, part: int) -> Population:
    """One part of a round: `PART_EVALUATIONS` children, each of a random member of the population so far."""
    rng = Random(f"mae-nas {task.seed} {turn} {part}")
    population = Population(task.population, list(members))
    for _ in range(PART_EVALUATIONS):
        child = task.space.mutate(pick(population.members, rng)[1], rng)
        value = score(child, task.weights)
        if population.takes(value, child) and task.allows(child):  # the budgets take longer to compute
            population.add(value, child)
    return population


def merged(task: Task, parts: Iterable[Population]) -> Population:
    """The best of several populations. Of structures with equal scores, the ones of the earlier part come first."""
    population = Population(task.population)
    for part in parts:
        for value, structure in part.members:
            population.add(value, structure)
    return population


def first_structure(task: Task) -> AnyStructure:
    """The structure that a search begins with: the initial one of its space, or the smallest where that costs too much.

    Raises UserError where the smallest one costs too much, too.
    """
    for structure in (task.space.initial, task.space.smallest):
        if task.allows(structure):
            return structure
    count = cost(task.space.smallest, task.size)
    raise UserError(
        "No structure of this search is within its budgets: the smallest structure has "
        f"{count.layers} layers, {count.parameters / 1e6:.3g} M parameters, {count.flops / 1e9:.3g} G multiply-adds.",
        "Give a larger budget, or a smaller size.",
    )


def initial_population(task: Task) -> Population:
    """The population that a search begins with: one structure."""
    first = first_structure(task)
    return Population(task.population, [(score(first, task.weights), first)])


def random_structures(task: Task, count: int, rng: Random, *, steps: int = 40) -> list[AnyStructure]:
    """Different random structures within the budgets, each found by `steps` random changes of the first one.

    Fewer than `count` where the budgets leave hardly any.
    """
    first = first_structure(task)
    found: dict[AnyStructure, None] = {}
    for _ in range(20 * count):
        structure = first
        for _ in range(int(rng.random() * steps) + 1):
            child = task.space.mutate(structure, rng)
            structure = child if task.allows(child) else structure
        found[structure] = None
        if len(found) == count:
            break
    return list(found)
