"""Run times of a detector: measured samples, kept in a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onelook.errors import UserError, reason_of
from onelook.files import write_text

_LAYOUT = 'It is JSON: a list of seconds, or {"samples": [0.021, 0.024, ...]}.'
LONGEST = 3600.0  # seconds
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class RunTimes:
    """An empirical distribution of run times: each run takes the time of one sample, all equally likely.

    samples: seconds, each above 0.  facts: what was measured, and on what, by name.
    """

    samples: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples:
            raise UserError("There are no run times.", "Give one sample at least, in seconds.")
        for sample in self.samples:
            if not 0 < sample <= LONGEST:  # NaN is in no range
                raise UserError(f"A run time is {sample}.", f"Run times are seconds, above 0 and up to {LONGEST:g}.")

    def faster(self, factor: float) -> RunTimes:
        """The run times of a machine that is `factor` times as fast."""
        if not 0 < factor < math.inf:
            raise UserError(f"The speed factor is {factor}.", "Give a number above 0: 2 is twice as fast.")
        return RunTimes(tuple(sample / factor for sample in self.samples), self.facts)

    @property
    def mean(self) -> float:
        """Mean, in seconds."""
        return float(np.mean(self.samples))

    def percentile(self, percent: float) -> float:
        """A percentile, in seconds."""
        return float(np.percentile(self.samples, percent))

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return {"type": "empirical", "samples": list(self.samples), **self.facts}

    def save(self, path: Path) -> Path:
        """Writes the JSON file; returns its path."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
        return path

    @staticmethod
    def read(path: Path) -> RunTimes:
        """Reads what `save` has written, or a JSON list of seconds. Raises UserError that names the file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"The run times '{path}' do not exist.", "Check the path.") from error
        except OSError as error:
            raise UserError(f"The run times '{path}' cannot be read: {reason_of(error)}.", "Check the file.") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{path}' does not hold run times: it is no JSON.", _LAYOUT) from error
        samples = content.get("samples") if isinstance(content, dict) else content
        if not isinstance(samples, list) or len(samples) > MOST_SAMPLES or not all(map(_is_number, samples)):
            raise UserError(f"'{path}' does not hold run times.", _LAYOUT)
        facts = {}
        if isinstance(content, dict):
            facts = {key: value for key, value in content.items() if key not in ("type", "samples")}
        try:
            return RunTimes(tuple(map(float, samples)), facts)
        except OverflowError as error:  # an integer beyond the range of a float
            raise UserError(f"'{path}' does not hold run times.", _LAYOUT) from error
        except UserError as error:
            raise UserError(f"'{path}': {error.message}", error.remedy) from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
