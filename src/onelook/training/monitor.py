"""What follows a training while it runs: a protocol that the live page implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class StepState:
    """Where a training is: `number` of the `steps` of an epoch (0-based) are done.

    losses: means of the last steps, with their "total".  left: seconds until the last step of the training.
    """

    epoch: int
    epochs: int
    number: int
    steps: int
    losses: Mapping[str, float]
    images_per_second: float
    left: float


class TrainMonitor(Protocol):
    """Receives the state of a training. The calls return at once and raise nothing: the training waits for them."""

    def step(self, state: StepState) -> None:
        """A step is done."""
        ...

    def end_epoch(self) -> None:
        """The steps of an epoch are done; its evaluation follows."""
        ...

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of metrics.csv so far."""
        ...

    def images(self, epoch: int, images: Sequence[tuple[str, bytes]]) -> None:
        """The worst images of an evaluation after `epoch` epochs: captions and JPEG files."""
        ...

    def warning(self, text: str) -> None:
        """A warning of the training."""
        ...
