"""DropBlock as a setting of a recipe, for a network of any family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from onelook.errors import ConfigError
from onelook.layers.dropblock import DropBlocks


@dataclass(frozen=True)
class DropBlock:
    """DropBlock regularisation: zeroes squares of the feature maps in training (Ghiasi et al. 2018).

    probability: share of the values that are dropped after the ramp.  size: side of the squares in cells.
    place: after which part: the backbone (the paper's last groups) or the neck.  ramp: part of the training over which
    the probability rises linearly from 0 (sec. 3: "scheduled"; Darknet has 0.85, and its squares grow too); 0 is none.
    """

    probability: float = 0.1
    size: int = 7
    place: Literal["backbone", "neck"] = "backbone"
    ramp: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1 or not 0 <= self.ramp <= 1:
            raise ValueError(f"probability is in [0, 1) and ramp in [0, 1], not {self.probability} and {self.ramp}")
        if self.size < 1:
            raise ValueError(f"size is at least 1 cell, not {self.size}")

    def insert(self, model: nn.Module) -> DropBlocks:
        """Adds the layer to a network, in place, and returns it: its `probability` is set before each step.

        Raises ConfigError where the network has no such part.
        """
        if not hasattr(model, f"after_{self.place}"):
            raise ConfigError(f"dropblock.place={self.place}: this network has no {self.place}.", "Use place=backbone.")
        drop = DropBlocks(self.size)
        setattr(model, f"after_{self.place}", drop)
        return drop

    def at(self, progress: float) -> float:
        """The probability at a `progress` of the training, 0 to 1."""
        return self.probability * (min(1.0, progress / self.ramp) if self.ramp else 1.0)
