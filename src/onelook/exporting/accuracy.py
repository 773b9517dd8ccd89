"""What was measured of an 8-bit file: its accuracy, its time and its size beside those of the float file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LEAST_GAIN = 0.95  # of the float file's time; above it, 8 bits gain nothing that can be told from noise


@dataclass(frozen=True)
class Trial:
    """A file that was judged: how many convolutions are in float besides the last ones, and its AP."""

    kept: int
    ap: float


@dataclass(frozen=True)
class Comparison:
    """The float file and the 8-bit file side by side.

    float_bytes: of all files of the float model.  float_ms, int8_ms: median time of one image at one thread, in
    alternation.
    """

    float_bytes: int
    float_ms: float
    int8_ms: float


@dataclass(frozen=True)
class Int8Report:
    """What an 8-bit file costs and gains.

    ap_float, ap: of both files, 0..1.  kept: names of the weights of the convolutions in float, besides the last ones.
    convolutions: how many can be in 8 bits.  trials: all files that were judged.
    """

    ap_float: float
    ap: float
    kept: tuple[str, ...]
    convolutions: int
    trials: tuple[Trial, ...]
    comparison: Comparison

    @property
    def gains(self) -> bool:
        """Whether the 8-bit file is faster on this processor."""
        return self.comparison.int8_ms < LEAST_GAIN * self.comparison.float_ms

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "ap_float": self.ap_float,
            "ap_int8": self.ap,
            "convolutions": self.convolutions,
            "in_float": list(self.kept),
            "trials": [{"in_float": one.kept, "ap": one.ap} for one in self.trials],
            "float_bytes": self.comparison.float_bytes,
            "float_ms": self.comparison.float_ms,
            "int8_ms": self.comparison.int8_ms,
        }
