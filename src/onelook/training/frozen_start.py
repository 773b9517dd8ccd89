"""Parameters that are not trained: in a whole training (`Recipe.freeze`), or in its first steps (`FrozenStart`)."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from onelook.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class FrozenStart:
    """The first steps of a training, in which some parameters stay as they are (Darknet's `stopbackward`).

    names: glob patterns of these parameters.  steps: how many.  statistics: whether the statistics of batch norm follow
    the images all the same (Darknet). Without, layers whose parameters are all frozen use the statistics of the first
    weights, as they are evaluated with, so that the new layers learn from the features that those weights were made
    for.
    """

    names: tuple[str, ...]
    steps: int
    statistics: bool = True

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is 0 or more, not {self.steps}")


def matching_parameters(detector: nn.Module, patterns: Iterable[str], setting: str) -> list[nn.Parameter]:
    """The parameters whose names match a pattern ("backbone.*"); ConfigError if a pattern matches none."""
    names = dict(detector.named_parameters())
    found: dict[str, nn.Parameter] = {}
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            parts = {name.split(".")[0] + ".*" for name in names} | set(names)
            raise ConfigError(
                f"{setting}: no parameter is called '{pattern}'.{did_you_mean(pattern, parts)}",
                "Use names or patterns such as backbone.* or neck.*.",
            )
        found |= {name: names[name] for name in matched}
    return list(found.values())


def freeze(detector: nn.Module, patterns: Iterable[str]) -> None:
    """Freezes the parameters whose names match a pattern; ConfigError if a pattern matches none, or all are frozen."""
    for parameter in matching_parameters(detector, patterns, "freeze"):
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in detector.parameters()):
        raise ConfigError("freeze leaves nothing to train.", "Leave at least the head trainable.")
