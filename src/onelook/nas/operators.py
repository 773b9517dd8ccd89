"""The convolutions of a network that is built from a structure, in its deploy form: what a latency table sums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from onelook.nas.trace import IMAGE_SIDE, traced
from onelook.networks.branched_structure import AnyStructure
from onelook.networks.structure import Stage, Structure


class Operator(NamedTuple):
    """A convolution for one image. side: of its input in pixels.  depthwise: one input channel a group."""

    kernel: int
    stride: int
    inputs: int
    outputs: int
    side: int
    depthwise: bool = False


def backbone_operators(structure: AnyStructure, size: int) -> list[Operator]:
    """The convolutions of the deployed backbone in the order of their execution. size: side of the input in pixels."""
    if not isinstance(structure, Structure):
        scale = size // IMAGE_SIDE
        return [Operator(*one._replace(side=one.side * scale)) for one in traced(structure).convolutions]
    stem = (3, 1, 12, structure.stem, size // 2) if structure.focus else (3, 2, 3, structure.stem, size)
    found = [Operator(*stem)]
    side, inputs = size // 2, structure.stem
    last = _last_resolution(structure)
    for place, stage in enumerate(structure.stages):
        spp = structure.spp and place == last
        if structure.csp:
            found += _csp_part(structure, place, inputs, side, spp=spp)
        else:
            found += _stage(inputs, stage, side, spp=spp)
        side, inputs = side // stage.stride, stage.outputs
    return found


def _last_resolution(structure: Structure) -> int:
    """The index of the stage with spatial pyramid pooling: the last; in a CSP backbone that of the last resolution."""
    places = [place for place, stage in enumerate(structure.stages) if stage.stride == 2]
    return places[-1] if structure.csp else len(structure.stages) - 1


def _stage(inputs: int, stage: Stage, side: int, *, spp: bool) -> Iterator[Operator]:
    for place in range(stage.depth):
        stride = stage.stride if place == 0 else 1
        yield from _block(inputs, stage, stride, side)
        side, inputs = side // stride, stage.outputs
        if spp and place == 0:
            yield from _spp(inputs, side)


def _block(inputs: int, stage: Stage, stride: int, side: int) -> Iterator[Operator]:
    width, outputs, kernel = stage.bottleneck, stage.outputs, stage.kernel
    after = side // stride
    yield Operator(kernel if stage.block == "kxkx" else 1, 1, inputs, width, side)
    if stage.block == "k1dwk1":
        yield Operator(kernel, stride, width, width, side, depthwise=True)
        yield Operator(1, 1, width, outputs, after)
        return
    ends = stage.block == "k1kxk1"
    yield Operator(kernel, stride, width, width if ends else outputs, side)
    if ends:
        yield Operator(1, 1, width, outputs, after)
    if stride == 1 and inputs != outputs:
        yield Operator(1, 1, inputs, outputs, side)


def _spp(channels: int, side: int) -> Iterator[Operator]:
    yield Operator(1, 1, channels, channels // 2, side)
    yield Operator(1, 1, channels // 2 * 4, channels, side)


def _csp_part(structure: Structure, place: int, inputs: int, side: int, *, spp: bool) -> Iterator[Operator]:
    """The convolutions that one stage adds to its resolution; the first stage of one also those around the blocks."""
    stage = structure.stages[place]
    outputs = _outputs_of_resolution(structure, place)
    half, after = outputs // 2, side // stage.stride
    if stage.stride == 2:
        yield Operator(3, 2, inputs, outputs, side)
        if spp:
            yield from _spp(outputs, after)
        yield from (Operator(1, 1, outputs, half, after), Operator(1, 1, outputs, half, after))
        yield Operator(1, 1, 2 * half, outputs, after)
    inner = Stage(half, stage.bottleneck, 1, stage.depth, stage.block, stage.kernel)
    for _ in range(stage.depth - (stage.stride == 2)):
        yield from _block(half, inner, 1, after)


def _outputs_of_resolution(structure: Structure, place: int) -> int:
    """The outputs of the last stage of the resolution that a stage belongs to."""
    for stage, following in zip(structure.stages[place:], (*structure.stages[place + 1 :], None)):
        if following is None or following.stride == 2:
            return stage.outputs
    raise AssertionError("the last stage ends its resolution")
