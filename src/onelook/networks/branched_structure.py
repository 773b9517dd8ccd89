"""Structures of backbones that join branches: CSPDarknet (YOLOv4, YOLOX) and ELAN (YOLOv7).

`DarknetStage` and `ElanStage` are what networks are built from; the structures add what a search has to know of the
network around them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from onelook.networks.structure import Structure

_MAX_CHANNELS = 16384  # limits what a damaged file can make the library allocate
_MAX_DEPTH = 128


def _check(what: str, channels: tuple[int, ...], depth: int) -> None:
    if not all(0 < one <= _MAX_CHANNELS for one in channels) or not 0 < depth <= _MAX_DEPTH:
        raise ValueError(f"{what} cannot have {', '.join(map(str, channels))} channels and depth {depth}")


@dataclass(frozen=True)
class DarknetStage:
    """One stage of a CSPDarknet: output channels, and the number of residual units on its inner path."""

    outputs: int
    depth: int

    def __post_init__(self) -> None:
        _check("a stage", (self.outputs,), self.depth)


@dataclass(frozen=True)
class ElanStage:
    """Channels of one stage: after the downsampling block, inside the ELAN, and of the ELAN's last 1x1.

    depth: number of 3x3 convolutions in the chain of the ELAN; None is that of the network.  Compound scaling changes
    `entry` and `output`, not `block` (YOLOv7, fig. 3c).
    """

    entry: int
    block: int
    output: int
    depth: int | None = None

    def __post_init__(self) -> None:
        _check("an ELAN stage", (self.entry, self.block, self.output), 1 if self.depth is None else self.depth)


# "c3": a Focus stem, both paths of a stage with their own 1x1, SPP in the last stage (YOLOX); "separable": the same
# with depthwise separable 3x3 (YOLOX-Nano).  "csp_first": a full-size stem, and a first stage with all channels on both
# paths (YOLOv4); "plain_first": the same with a plain residual unit as first stage (YOLOv4-CSP).
DarknetKind = Literal["c3", "separable", "csp_first", "plain_first"]
FOCUS_KINDS = ("c3", "separable")  # those with a Focus stem


@dataclass(frozen=True)
class DarknetStructure:
    """A CSPDarknet: channels of its stem, its stages, its form and the activation of its convolutions.

    Four stages of strides 4 to 32 after a Focus; five of strides 2 to 32 after a stem of the image's size.
    """

    stem: int
    stages: tuple[DarknetStage, ...]
    kind: DarknetKind = "c3"
    activation: str = "silu"

    @property
    def focus(self) -> bool:
        """Whether the stem is a Focus."""
        return self.kind in FOCUS_KINDS

    def level_channels(self) -> tuple[int, ...]:
        """Channels of the features of stride 8, 16 and 32."""
        return tuple(stage.outputs for stage in self.stages[-3:])

    def with_levels(self, channels: tuple[int, ...]) -> DarknetStructure:
        """A backbone that is quickly built, with these channels of its features of stride 8, 16 and 32."""
        first = (DarknetStage(8, 1),) * (len(self.stages) - 3)
        return replace(self, stem=8, stages=(*first, *(DarknetStage(outputs, 1) for outputs in channels)))


ElanStem = Literal["two", "four", "space_to_depth"]
Downsample = Literal["pool", "both", "conv", "down_c"]


@dataclass(frozen=True)
class ElanStructure:
    """An ELAN backbone: its stages of strides 4 to 32, and the settings of the network that they are built with.

    stem, down, step, width: as in the architecture of YOLOv7.  Every stage has a depth of its own.
    """

    stages: tuple[ElanStage, ...]
    stem: ElanStem = "four"
    down: Downsample = "both"
    step: int = 2
    width: float = 1.0
    activation: str = "silu"

    def between(self, channels: int) -> int:
        """Channels of a layer between ELANs, which the factor `width` changes."""
        return round(channels * self.width)

    def level_channels(self) -> tuple[int, ...]:
        """Channels of the features of stride 8, 16 and 32."""
        return tuple(self.between(stage.output) for stage in self.stages[-3:])

    def with_levels(self, channels: tuple[int, ...]) -> ElanStructure:
        """A backbone that is quickly built, with these channels of its features of stride 8, 16 and 32."""
        outputs = [round(count / self.width) for count in channels]
        entries = [8, *outputs[:-1]] if self.down == "pool" else [8, 8, 8]
        rest = (ElanStage(entry, 8, output, 1) for entry, output in zip(entries, outputs))
        return replace(self, stages=(ElanStage(8, 8, 8, 1), *rest))


AnyStructure = Structure | DarknetStructure | ElanStructure
