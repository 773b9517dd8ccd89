"""Walks through a backbone that joins branches, and adds up what its convolutions contribute to score and cost.

The entropy of MAE-NAS is that of a network without activations, normalisation and shortcuts, with weights from N(0, 1).
Such a network is linear, so the variance of its features is known exactly where branches are concatenated as well: a
convolution that reads c_i channels of variance v_i, for every branch i, has outputs of variance k^2 * sum(c_i * v_i).
In a chain there is one branch, and that is the closed form of DAMO-YOLO.

Not linear, and therefore not covered, is max-pooling: it is walked through as if it changed nothing.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, log
from typing import NamedTuple

from onelook.networks.branched_structure import DarknetStructure, ElanStage, ElanStructure

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


class Trace:
    """What was met on the way: convolutions, additions of shortcuts, and the last features of every resolution."""

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

    @property
    def entropies(self) -> tuple[float, ...]:
        """Of the last features of stride 2, 4, 8, 16 and 32."""
        return tuple(self.levels[stride].entropy for stride in (2, 4, 8, 16, 32))

    @property
    def parameters(self) -> int:
        """Of all convolutions, with two numbers a channel for the normalisation behind each."""
        return sum(_weights(one) + 2 * one.outputs for one in self.convolutions)

    @property
    def flops(self) -> float:
        """One a multiply-add; normalisation counts two an output, activations and sums one, pooling none."""
        return self.added + sum(
            (one.side // one.stride) ** 2 * (_weights(one) + 3 * one.outputs) for one in self.convolutions
        )


def _weights(one: Convolution) -> int:
    return one.kernel**2 * (1 if one.depthwise else one.inputs) * one.outputs


@lru_cache(maxsize=2**14)
def traced(structure: DarknetStructure | ElanStructure) -> Trace:
    """The trace of a backbone for an image of `IMAGE_SIDE` pixels."""
    trace = Trace()
    if isinstance(structure, DarknetStructure):
        _darknet(trace, structure)
    else:
        _elan(trace, structure)
    return trace


def _darknet(trace: Trace, structure: DarknetStructure) -> None:
    separable = structure.kind == "separable"

    def spatial(x: Features, outputs: int, stride: int = 1) -> Features:
        if separable:
            return trace.conv(trace.depthwise(x, 3, stride), outputs)
        return trace.conv(x, outputs, 3, stride)

    if structure.focus:
        x = trace.end_level(trace.conv(trace.image(12, IMAGE_SIDE // 2), structure.stem, 3))
    else:
        x = trace.conv(trace.image(), structure.stem, 3)
    last = len(structure.stages) - 1
    for place, stage in enumerate(structure.stages):
        x = spatial(x, stage.outputs, 2)
        whole = place == 0 and not structure.focus  # the first stage of YOLOv4 works with all channels
        own, inner = (stage.outputs if whole else stage.outputs // 2), stage.outputs // 2
        plain = whole and structure.kind == "plain_first"
        if structure.focus and place == last:
            x = trace.pyramid_pooling(x)
        y = x if plain else trace.conv(x, own)
        for _ in range(stage.depth):
            y = spatial(trace.conv(y, inner), own)
            if not (structure.focus and place == last):  # the last stage of YOLOX has no shortcuts
                y = trace.shortcut(y)
        if plain:
            x = y
        else:
            y = y if structure.focus else trace.conv(y, own)
            x = trace.conv(trace.join(y, trace.conv(x, own)), stage.outputs)
        trace.end_level(x)


def _elan(trace: Trace, structure: ElanStructure) -> None:
    x = _elan_stem(trace, structure)
    for place, stage in enumerate(structure.stages):
        if place:
            x = _elan_down(trace, structure, x, structure.between(stage.entry))
        x = trace.end_level(_elan_block(trace, structure, x, stage))


def _elan_stem(trace: Trace, structure: ElanStructure) -> Features:
    outputs = structure.between(structure.stages[0].entry)
    half, x = outputs // 2, trace.image()
    if structure.stem == "two":
        return trace.conv(trace.end_level(trace.conv(x, half, 3, 2)), outputs, 3, 2)
    x = trace.conv(trace.conv(x, half // 2, 3), half, 3, 2)
    return trace.conv(trace.end_level(trace.conv(x, half, 3)), outputs, 3, 2)


def _elan_down(trace: Trace, structure: ElanStructure, x: Features, outputs: int) -> Features:
    if structure.down == "pool":
        return trace.pool(x)
    half = outputs // 2
    return trace.join(trace.conv(trace.conv(x, half), half, 3, 2), trace.conv(trace.pool(x), half))


def _elan_block(trace: Trace, structure: ElanStructure, x: Features, stage: ElanStage) -> Features:
    depth = 1 if stage.depth is None else stage.depth
    y = trace.conv(x, stage.block)
    branches = [trace.conv(x, stage.block), y]
    for place in range(depth):
        y = trace.conv(y, stage.block, 3)
        if (depth - 1 - place) % structure.step == 0:
            branches.append(y)
    return trace.conv(trace.join(*branches), structure.between(stage.output))
