"""A hyper-parameter search in a folder: its trials and results in a file that survives a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onelook.config import change, get
from onelook.errors import UserError
from onelook.tuning.genes import Evolution, Gene

STUDY_FILE = "study.json"
_RANDOM_STREAM = 0x6E3E

Write = Callable[[Path, str], None]


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    values: of the genes, in their order.  status: "running" until it has a fitness, or failed.  process: id of the
    process that runs or ran it.  error: why it failed.
    """

    number: int
    values: tuple[float | int, ...]
    status: Literal["running", "done", "failed"] = "running"
    fitness: float | None = None
    seconds: float = 0.0
    process: int | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"trial-{self.number:03d}"


class Study:
    """A search and its trials, in a file that is replaced atomically at each change.

    A proposal depends on the seed, the number of the trial, and the trials finished by then.

    options: other settings (JSON) that the caller needs to resume the search.
    """

    def __init__(self, folder: Path, recipe: Any, genes: Sequence[Gene], seed: int, write: Write) -> None:
        self.folder, self.recipe, self.genes, self.seed = folder, recipe, tuple(genes), seed
        self.options: dict[str, Any] = {}
        self.evolution = Evolution()
        self.trials: list[Trial] = []
        self._write = write

    @staticmethod
    def read(folder: Path, recipe: Any, write: Write) -> Study:
        """Reads the search in a folder. Raises UserError where there is none, or its file is damaged."""
        path = folder / STUDY_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            study = Study(folder, recipe, [Gene(**one) for one in data["genes"]], int(data["seed"]), write)
            study.options = dict(data.get("options", {}))
            study.trials = [Trial(**{**one, "values": tuple(one["values"])}) for one in data["trials"]]
            for gene in study.genes:
                get(recipe, gene.path)
        except FileNotFoundError:
            raise UserError(f"There is no search in '{folder}' to resume.", "Start it without resume.") from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"'{path}' is damaged ({error}).", "Start a new search in another folder.") from error
        return study

    def save(self) -> None:
        """Writes the file."""
        data = {
            "genes": [asdict(gene) for gene in self.genes],
            "seed": self.seed,
            "options": self.options,
            "trials": [asdict(trial) for trial in self.trials],
        }
        self._write(self.folder / STUDY_FILE, json.dumps(data, indent=1) + "\n")

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest fitness; the first of equal ones."""
        done = [trial for trial in self.trials if trial.fitness is not None]
        return max(done, key=lambda trial: (trial.fitness or 0.0, -trial.number), default=None)

    def unfinished(self) -> list[Trial]:
        """The trials that were started and have no result."""
        return [trial for trial in self.trials if trial.status == "running"]

    def start_trial(self) -> Trial:
        """Proposes the next trial and saves it."""
        number = len(self.trials)
        start = [float(get(self.recipe, gene.path)) for gene in self.genes]
        done = [(trial.values, trial.fitness) for trial in self.trials if trial.fitness is not None]
        rng = np.random.default_rng((_RANDOM_STREAM, self.seed, number))
        self.trials.append(Trial(number, self.evolution.propose(self.genes, start, done, rng, number)))
        self.save()
        return self.trials[-1]

    def update_trial(self, trial: Trial, **new: Any) -> Trial:
        """Changes fields of a trial and saves them."""
        self.trials[trial.number] = replace(self.trials[trial.number], **new)
        self.save()
        return self.trials[trial.number]

    def recipe_of(self, trial: Trial) -> Any:
        """The recipe with a trial's values."""
        return change(self.recipe, self.settings(trial))

    def settings(self, trial: Trial) -> Mapping[str, float | int]:
        """A trial's values by their paths."""
        return {gene.path: value for gene, value in zip(self.genes, trial.values)}

    def rows(self) -> list[dict[str, Any]]:
        """The trials as a table."""
        return [
            {"trial": t.number, "status": t.status, "fitness": t.fitness, "seconds": round(t.seconds, 1)}
            | dict(self.settings(t))
            for t in self.trials
        ]
