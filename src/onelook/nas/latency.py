"""Latency of a structure, predicted from a table of measured convolutions (MAE-DET sec. 4; DAMO-YOLO sec. 2.1).

The table is filled on demand. Convolutions are measured at numbers of channels of a grid, and interpolated linearly
between them. The sum of a network's convolutions leaves out what is between them, so whole random networks are measured
too, and seconds = scale * sum + rest is fitted to them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onelook.nas.operators import Operator, backbone_operators
from onelook.networks.branched_structure import AnyStructure

# Multiples of 8 that are as wide as the vectors of a CPU, and finer where few channels make much of a difference.
GRID = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
LEAST_CORRELATION = 0.9  # of ranks: below, the table does not order networks well enough


@dataclass
class OperatorTable:
    """Seconds of convolutions, measured when they are first asked for.

    measure: the seconds of a convolution.  known: those that were measured already.
    """

    measure: Callable[[Operator], float]
    known: dict[Operator, float] = field(default_factory=dict)
    added: int = 0
    _interpolated: dict[Operator, float] = field(default_factory=dict)

    def seconds(self, operator: Operator) -> float:
        """The seconds of a convolution, interpolated between channels of the grid."""
        found = self._interpolated.get(operator)
        if found is None:
            found = self._interpolated[operator] = self._interpolate(operator)
        return found

    def _interpolate(self, operator: Operator) -> float:
        if operator.depthwise:
            return sum(
                share * self._measured(operator._replace(inputs=channels, outputs=channels))
                for channels, share in neighbours(operator.inputs)
            )
        return sum(
            share * part * self._measured(operator._replace(inputs=inputs, outputs=outputs))
            for inputs, share in neighbours(operator.inputs)
            for outputs, part in neighbours(operator.outputs)
        )

    def total(self, operators: Iterable[Operator]) -> float:
        """The sum over the convolutions of a network."""
        return sum(map(self.seconds, operators))

    def _measured(self, operator: Operator) -> float:
        if operator not in self.known:
            self.known[operator] = self.measure(operator)
            self.added += 1
        return self.known[operator]


def neighbours(channels: int) -> list[tuple[int, float]]:
    """The channels of the grid around a number, with their shares; numbers below and beyond the grid stand alone."""
    if channels in GRID or not GRID[0] < channels < GRID[-1]:
        return [(channels, 1.0)]
    above = bisect_left(GRID, channels)
    low, high = GRID[above - 1], GRID[above]
    share = (channels - low) / (high - low)
    return [(low, 1.0 - share), (high, share)]


@dataclass(frozen=True)
class Calibration:
    """How well a table predicts whole networks.

    scale, rest: seconds = scale * sum + rest.  correlation: of the ranks of predicted and measured seconds (Spearman).
    predicted, measured: seconds of the networks that were measured.
    """

    scale: float
    rest: float
    correlation: float
    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def largest_error(self) -> float:
        """The largest relative error of a prediction."""
        return max(abs(one / other - 1) for one, other in zip(self.predicted, self.measured))

    @property
    def reliable(self) -> bool:
        """Whether the table orders networks well enough for a search."""
        return self.correlation >= LEAST_CORRELATION


def calibrate(sums: Sequence[float], measured: Sequence[float]) -> Calibration:
    """Fits `seconds = scale * sum + rest` (least squares of relative errors) to measured networks.

    scale and rest are not negative.
    """
    x, y = np.asarray(sums, float), np.asarray(measured, float)
    matrix = np.stack((x / y, 1 / y), 1)
    (scale, rest), *_ = np.linalg.lstsq(matrix, np.ones(len(y)), rcond=None)
    if rest < 0 or scale <= 0:  # the best of the fits with one of them zero
        scale, rest = float((x / y).sum() / (x / y).dot(x / y)), 0.0
    predicted = scale * x + rest
    return Calibration(float(scale), float(rest), rank_correlation(x, y), tuple(predicted.tolist()), tuple(y.tolist()))


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation of ranks; ties have the mean of their ranks. 0 where one of them is constant."""
    ranks = [_ranks(np.asarray(values, float)) for values in (first, second)]
    centred = [one - one.mean() for one in ranks]
    norm = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / norm) if norm else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray = ends - (counts - 1) / 2
    return means[places]


@dataclass
class LatencyModel:
    """Predicts the seconds of the detector with a backbone: called with a structure.

    rest: the sum of the table over neck and head, which depend on the channels of the backbone's last three features.
    scale, constant: fitted to whole networks, see `Calibration`.
    """

    table: OperatorTable
    size: int
    rest: Callable[[AnyStructure], float]
    scale: float = 1.0
    constant: float = 0.0

    def total(self, structure: AnyStructure) -> float:
        """The sum of the table over all convolutions of the detector."""
        return self.table.total(backbone_operators(structure, self.size)) + self.rest(structure)

    def __call__(self, structure: AnyStructure) -> float:
        return self.scale * self.total(structure) + self.constant
