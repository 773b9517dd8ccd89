"""Walks through a backbone that joins branches, and adds up what its convolutions contribute to score and cost.

The entropy of MAE-NAS is that of a network without activations, normalisation and shortcuts, with weights from N(0, 1).
Such a network is linear, so the variance of its features is known exactly where branches are concatenated as well: a
convolution that reads c_i channels of variance v_i, for every branch i, has outputs of variance k^2 * sum(c_i * v_i).
In a chain there is one branch, and that is the closed form of DAMO-YOLO.

Not linear, and therefore not covered, is max-pooling: it is walked through as if it changed nothing.

Between its stages such a backbone has one branch. So what a stage adds depends on its own settings and the channels
before it alone: a stage is walked through once, with inputs of variance 1, and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import exp, log
from typing import NamedTuple

from onelook.networks.branched_structure import (
    FOCUS_KINDS,
    DarknetKind,
    DarknetStage,
    DarknetStructure,
    Downsample,
    ElanStem,
    ElanStructure,
)

IMAGE_SIDE = 32  # pixels of the image of a trace: the features of stride 32 have one


class Part(NamedTuple):
    """Channels of one branch, and the logarithm of their standard deviation."""

    channels: int
    log_deviation: float


class Features(NamedTuple):
    """Features between layers.

    parts: of the branches that are concatenated.  side: in pixels.  layers: convolutions on the longest path to here.
    """

    parts: tuple[Part, ...]
    side: int
    layers: int

    @property
    def channels(self) -> int:
        """Of all branches together."""
        return sum(part.channels for part in self.parts)

    @property
    def entropy(self) -> float:
        """The mean log-deviation of the channels plus the logarithm of their number."""
        return sum(one.channels * one.log_deviation for one in self.parts) / self.channels + log(self.channels)


class Convolution(NamedTuple):
    """A convolution of a trace. side: of its input, for an image of `IMAGE_SIDE` pixels."""

    kernel: int
    stride: int
    inputs: int
    outputs: int
    side: int
    depthwise: bool = False


class Section(NamedTuple):
    """A stage of a backbone, or its stem, walked through with inputs of variance 1 that no convolution has made.

    outputs: what it passes on, of one branch.  levels: the last features of the resolutions that end in it, by stride.
    parameters: of all convolutions, with two numbers a channel for the normalisation behind each.  flops: one a
    multiply-add; normalisation counts two an output, activations and sums one, pooling none.
    """

    convolutions: tuple[Convolution, ...]
    outputs: Features
    levels: tuple[tuple[int, Features], ...]
    parameters: int
    flops: float


class Trace:
    """A whole backbone: its sections in order, and the last features of every resolution by their stride."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.levels: dict[int, Features] = {}
        self._deviation, self._layers = 0.0, 0

    def add(self, section: Section) -> Features:
        """Appends a section; returns what it passes on."""
        for stride, features in section.levels:
            self.levels[stride] = self._behind(features)
        outputs = self._behind(section.outputs)
        ((_, self._deviation),), self._layers = outputs.parts, outputs.layers
        self.sections.append(section)
        return outputs

    def _behind(self, features: Features) -> Features:
        """Features of a section, behind the sections so far."""
        parts, side, layers = features
        moved = tuple(Part(channels, value + self._deviation) for channels, value in parts)
        return Features(moved, side, layers + self._layers)

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """In the order of their execution."""
        return (one for section in self.sections for one in section.convolutions)

    @property
    def entropies(self) -> tuple[float, ...]:
        """Of the last features of stride 2, 4, 8, 16 and 32."""
        return tuple(self.levels[stride].entropy for stride in (2, 4, 8, 16, 32))

    @property
    def parameters(self) -> int:
        """Of all sections."""
        return sum(section.parameters for section in self.sections)

    @property
    def flops(self) -> float:
        """Of all sections, for an image of `IMAGE_SIDE` pixels."""
        return sum(section.flops for section in self.sections)


class Walk:
    """Walks through the layers of a section: notes convolutions, sums of shortcuts, and the ends of resolutions."""

    def __init__(self) -> None:
        self.convolutions: list[Convolution] = []
        self.added = 0  # sums of shortcuts
        self.levels: dict[int, Features] = {}  # by stride

    def image(self, channels: int = 3, side: int = IMAGE_SIDE) -> Features:
        """The input, from N(0, 1). After a Focus it has 12 channels and half the side."""
        return Features((Part(channels, 0.0),), side, 0)

    def conv(self, x: Features, outputs: int, kernel: int = 1, stride: int = 1) -> Features:
        """A convolution that reads all branches."""
        self.convolutions.append(Convolution(kernel, stride, x.channels, outputs, x.side))
        largest = max(part.log_deviation for part in x.parts)
        fan_in = sum(part.channels * exp(2 * (part.log_deviation - largest)) for part in x.parts)
        value = largest + 0.5 * log(kernel**2 * fan_in)
        return Features((Part(outputs, value),), x.side // stride, x.layers + 1)

    def depthwise(self, x: Features, kernel: int, stride: int = 1) -> Features:
        """A convolution of every channel alone."""
        self.convolutions.append(Convolution(kernel, stride, x.channels, x.channels, x.side, True))
        parts = tuple(Part(one.channels, one.log_deviation + log(kernel)) for one in x.parts)
        return Features(parts, x.side // stride, x.layers + 1)

    def shortcut(self, x: Features) -> Features:
        """A sum with the input of a unit: it costs additions, and the score leaves it out as in a chain."""
        self.added += x.channels * x.side**2
        return x

    def join(self, *branches: Features) -> Features:
        """The concatenation of branches."""
        parts = tuple(part for one in branches for part in one.parts)
        return Features(parts, branches[0].side, max(one.layers for one in branches))

    def pool(self, x: Features) -> Features:
        """Max-pooling that halves the sides; not covered by the theory."""
        return x._replace(side=x.side // 2)

    def pyramid_pooling(self, x: Features) -> Features:
        """SPP: its two convolutions cost, but do not score, as in the search of DAMO-YOLO."""
        half = x.channels // 2
        self.conv(self.conv(x, half)._replace(parts=(Part(4 * half, 0.0),)), x.channels)
        return x

    def end_level(self, x: Features) -> Features:
        """Marks features as the last of their resolution."""
        self.levels[IMAGE_SIDE // x.side] = x
        return x

    def section(self, outputs: Features) -> Section:
        """The section that ends with these features."""
        parameters = sum(_weights(one) + 2 * one.outputs for one in self.convolutions)
        flops = self.added + sum(
            (one.side // one.stride) ** 2 * (_weights(one) + 3 * one.outputs) for one in self.convolutions
        )
        return Section(tuple(self.convolutions), outputs, tuple(self.levels.items()), parameters, flops)


def _weights(one: Convolution) -> int:
    return one.kernel**2 * (1 if one.depthwise else one.inputs) * one.outputs


@lru_cache(maxsize=2**14)
def traced(structure: DarknetStructure | ElanStructure) -> Trace:
    """The trace of a backbone for an image of `IMAGE_SIDE` pixels."""
    if isinstance(structure, DarknetStructure):
        return _traced_darknet(structure)
    return _traced_elan(structure)


def _traced_darknet(structure: DarknetStructure) -> Trace:
    trace, kind = Trace(), structure.kind
    x = trace.add(_darknet_stem(structure.stem, focus=structure.focus))
    last = len(structure.stages) - 1
    for place, stage in enumerate(structure.stages):
        x = trace.add(_darknet_stage(kind, stage, x.channels, x.side, first=place == 0, last=place == last))
    return trace


@lru_cache(maxsize=2**10)
def _darknet_stem(outputs: int, *, focus: bool) -> Section:
    walk = Walk()
    if focus:
        return walk.section(walk.end_level(walk.conv(walk.image(12, IMAGE_SIDE // 2), outputs, 3)))
    return walk.section(walk.conv(walk.image(), outputs, 3))


@lru_cache(maxsize=2**16)
def _darknet_stage(
    kind: DarknetKind, stage: DarknetStage, inputs: int, side: int, *, first: bool, last: bool
) -> Section:
    walk, focus = Walk(), kind in FOCUS_KINDS

    def spatial(x: Features, outputs: int, stride: int = 1) -> Features:
        if kind == "separable":
            return walk.conv(walk.depthwise(x, 3, stride), outputs)
        return walk.conv(x, outputs, 3, stride)

    x = spatial(walk.image(inputs, side), stage.outputs, 2)
    whole = first and not focus  # the first stage of YOLOv4 works with all channels
    own, inner = (stage.outputs if whole else stage.outputs // 2), stage.outputs // 2
    plain = whole and kind == "plain_first"
    if focus and last:
        x = walk.pyramid_pooling(x)
    y = x if plain else walk.conv(x, own)
    for _ in range(stage.depth):
        y = spatial(walk.conv(y, inner), own)
        if not (focus and last):  # the last stage of YOLOX has no shortcuts
            y = walk.shortcut(y)
    if plain:
        x = y
    else:
        y = y if focus else walk.conv(y, own)
        x = walk.conv(walk.join(y, walk.conv(x, own)), stage.outputs)
    return walk.section(walk.end_level(x))


def _traced_elan(structure: ElanStructure) -> Trace:
    trace, between = Trace(), structure.between
    x = trace.add(_elan_stem(structure.stem, between(structure.stages[0].entry)))
    for place, stage in enumerate(structure.stages):
        down = structure.down if place else None
        numbers = (between(stage.entry), stage.block, between(stage.output), stage.depth or 1)
        x = trace.add(_elan_stage(down, numbers, structure.step, x.channels, x.side))
    return trace


@lru_cache(maxsize=2**10)
def _elan_stem(kind: ElanStem, outputs: int) -> Section:
    walk, half = Walk(), outputs // 2
    x = walk.image()
    if kind == "two":
        return walk.section(walk.conv(walk.end_level(walk.conv(x, half, 3, 2)), outputs, 3, 2))
    x = walk.conv(walk.conv(x, half // 2, 3), half, 3, 2)
    return walk.section(walk.conv(walk.end_level(walk.conv(x, half, 3)), outputs, 3, 2))


@lru_cache(maxsize=2**16)
def _elan_stage(
    down: Downsample | None, numbers: tuple[int, int, int, int], step: int, inputs: int, side: int
) -> Section:
    """A downsampling, where there is one, and an ELAN. numbers: channels at its entry, inside and at its end; depth."""
    walk, (entry, block, outputs, depth) = Walk(), numbers
    x = walk.image(inputs, side)
    if down == "pool":
        x = walk.pool(x)
    elif down is not None:
        half = entry // 2
        x = walk.join(walk.conv(walk.conv(x, half), half, 3, 2), walk.conv(walk.pool(x), half))
    y = walk.conv(x, block)
    branches = [walk.conv(x, block), y]
    for place in range(depth):
        y = walk.conv(y, block, 3)
        if (depth - 1 - place) % step == 0:
            branches.append(y)
    return walk.section(walk.end_level(walk.conv(walk.join(*branches), outputs)))
