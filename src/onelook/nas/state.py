"""The state of a search in a file, from which it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onelook.errors import UserError
from onelook.nas.evolution import Population
from onelook.networks.branched_structure import AnyStructure, DarknetStage, ElanStage
from onelook.networks.structure import Stage

STATE_FILE = "search.json"

Write = Callable[[Path, str], None]


@dataclass
class SearchState:
    """A search between two rounds.

    settings: what was asked for, as JSON holds it; a resumed search has the same.  turn: rounds that are done.
    evaluations: children that were made.  history: pairs of evaluations and the best score by then, at each change.
    members: the population: pairs of score and structure, best first.
    """

    settings: dict[str, Any]
    turn: int = 0
    evaluations: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    members: list[tuple[float, AnyStructure]] = field(default_factory=list)

    @property
    def best(self) -> AnyStructure:
        """The structure with the best score."""
        return self.members[0][1]

    def advance(self, population: Population, evaluations: int) -> None:
        """Takes over the population of another round."""
        self.turn += 1
        self.evaluations += evaluations
        self.members = population.members
        if not self.history or self.members[0][0] > self.history[-1][1]:
            self.history.append((self.evaluations, self.members[0][0]))

    def save(self, folder: Path, write: Write) -> None:
        """Writes the file."""
        data = {
            "settings": self.settings,
            "turn": self.turn,
            "evaluations": self.evaluations,
            "history": self.history,
            "members": [[value, structure_rows(structure)] for value, structure in self.members],
        }
        write(folder / STATE_FILE, json.dumps(data) + "\n")


def read_state(folder: Path, form: Callable[[dict[str, Any]], AnyStructure]) -> SearchState:
    """Reads the search in a folder. form: makes of its settings a structure of the form that all members have.

    Raises UserError where there is no search, or its file is damaged.
    """
    path = folder / STATE_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(data["settings"])
        like = form(settings)
        members = [(float(value), structure_of(rows, like)) for value, rows in data["members"]]
        history = [(int(count), float(value)) for count, value in data["history"]]
        state = SearchState(settings, int(data["turn"]), int(data["evaluations"]), history, members)
        if not state.members:
            raise ValueError("it holds no structure")
    except FileNotFoundError:
        raise UserError(f"There is no search in '{folder}' to resume.", "Start it without resume.") from None
    except (ValueError, KeyError, TypeError, OSError, UserError) as error:
        raise UserError(f"'{path}' is damaged ({error}).", "Start a new search in another folder.") from error
    return state


def structure_rows(structure: AnyStructure) -> list[Any]:
    """A structure as JSON: the stem's channels, where it has any of its own, then the numbers of each stage.

    Of a `Stage` outputs, bottleneck, depth and kernel; of other stages all their settings in order.
    """
    stem = structure.stem if isinstance(structure.stem, int) else 0
    return [stem, [[getattr(stage, name) for name in _NUMBERS[type(stage)]] for stage in structure.stages]]


def structure_of(rows: Any, like: AnyStructure) -> AnyStructure:
    """The structure of `structure_rows`, with the blocks, strides and other settings of `like`."""
    stem, stages = rows
    if len(stages) != len(like.stages):
        raise ValueError(f"a structure has {len(stages)} stages instead of {len(like.stages)}")
    settings: dict[str, Any] = {"stages": tuple(_stage(row, old) for row, old in zip(stages, like.stages))}
    if isinstance(like.stem, int):
        settings["stem"] = int(stem)
    return replace(like, **settings)


_NUMBERS: dict[type, tuple[str, ...]] = {
    Stage: ("outputs", "bottleneck", "depth", "kernel"),
    DarknetStage: ("outputs", "depth"),
    ElanStage: ("entry", "block", "output", "depth"),
}


def _stage(row: Any, old: Any) -> Any:
    names = _NUMBERS[type(old)]
    if len(row) != len(names):
        raise ValueError(f"a stage has {len(row)} numbers instead of {len(names)}")
    return replace(old, **dict(zip(names, map(int, row))))
