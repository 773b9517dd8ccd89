"""A hyper-parameter search in a folder: its trials and results in a file that survives a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

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

    values: of the genes, in their order.  status: "running" until it has a fitness, has failed, or was stopped early
    because others were better.  process: id of the process that runs or ran it.  error: why it failed.
    """

    number: int
    values: tuple[float | int, ...]
    status: Literal["running", "done", "failed", "stopped"] = "running"
    fitness: float | None = None
    seconds: float = 0.0
    process: int | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"trial-{self.number:03d}"


class Proposer(Protocol):
    """Chooses the values of trials, and which trials are stopped early."""

    def propose(self, study: Study, number: int) -> tuple[float | int, ...]:
        """The values of trial `number`, which follows all trials of the study."""
        ...

    def stops(self, trial: Trial, scores: Mapping[int, float]) -> bool:
        """Whether a running trial is stopped. scores: its metric after epochs (from 1 on), at least one."""
        ...

    def finish(self, trial: Trial) -> None:
        """Called when a trial has ended: it is done, failed or stopped."""
        ...


@dataclass(frozen=True)
class GeneticProposer:
    """The genetic algorithm: a proposal depends on the seed, its number, and the trials finished by then."""

    evolution: Evolution = Evolution()

    def propose(self, study: Study, number: int) -> tuple[float | int, ...]:
        done = [(trial.values, trial.fitness) for trial in study.trials if trial.fitness is not None]
        rng = np.random.default_rng((_RANDOM_STREAM, study.seed, number))
        return self.evolution.propose(study.genes, study.start, done, rng, number)

    def stops(self, trial: Trial, scores: Mapping[int, float]) -> bool:
        """Every trial is trained to its end."""
        return False

    def finish(self, trial: Trial) -> None:
        """The study has the trials."""


class Study:
    """A search and its trials, in a file that is replaced atomically at each change.

    options: other settings (JSON) that the caller needs to resume the search.  proposer: chooses the trials; the
    genetic algorithm unless it is set.
    """

    def __init__(self, folder: Path, recipe: Any, genes: Sequence[Gene], seed: int, write: Write) -> None:
        self.folder, self.recipe, self.genes, self.seed = folder, recipe, tuple(genes), seed
        self.options: dict[str, Any] = {}
        self.proposer: Proposer = GeneticProposer()
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
    def start(self) -> list[float]:
        """The recipe's own values of the genes."""
        return [float(get(self.recipe, gene.path)) for gene in self.genes]

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
        self.trials.append(Trial(number, self.proposer.propose(self, number)))
        self.save()
        return self.trials[-1]

    def update_trial(self, trial: Trial, **new: Any) -> Trial:
        """Changes fields of a trial and saves them."""
        changed = self.trials[trial.number] = replace(self.trials[trial.number], **new)
        self.save()
        if changed.status not in ("running", trial.status):
            self.proposer.finish(changed)
        return changed

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
