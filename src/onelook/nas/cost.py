"""What a structure costs, as the search of MAE-NAS counts it: layers, parameters and multiply-adds of the backbone.

Counted of a chain is the network of the search: residual blocks with a shortcut in every block, at stride 2 too. The
network that is built has none there, and has a Focus, spatial pyramid pooling or CSP stages around its blocks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from onelook.nas.trace import IMAGE_SIDE, traced
from onelook.networks.branched_structure import AnyStructure
from onelook.networks.structure import Stage, Structure


class Cost(NamedTuple):
    """layers: convolutions on the main branch.  parameters: of the backbone.  flops: one a multiply-add, one image."""

    layers: int
    parameters: int
    flops: float


def cost(structure: AnyStructure, size: int) -> Cost:
    """The cost of a structure. size: side of the detector's input in pixels.

    Of a backbone that joins branches, all convolutions are counted, and as layers those on the longest path.
    """
    if not isinstance(structure, Structure):
        trace = traced(structure)
        return Cost(trace.levels[32].layers, trace.parameters, trace.flops * (size / IMAGE_SIDE) ** 2)
    side, step = (size / 2, 1) if structure.focus else (float(size), 2)
    weights = structure.stem_inputs * structure.stem * 9
    layers, parameters = 1, weights + 2 * structure.stem
    flops = side**2 * (weights + 3 * structure.stem) / step**2
    side, inputs = size / 2, structure.stem
    for stage in structure.stages:
        count = stage_cost(inputs, stage)
        layers += count.layers
        parameters += count.parameters
        flops += side**2 * count.flops
        side, inputs = side / stage.stride, stage.outputs
    return Cost(layers, parameters, flops)


@lru_cache(maxsize=2**16)
def stage_cost(inputs: int, stage: Stage) -> Cost:
    """The cost of a stage; its flops are those of every pixel of the stage's input."""
    first = _block_cost(inputs, stage, stage.stride, first=True)
    rest = _block_cost(stage.outputs, stage, 1, first=False)
    more = stage.depth - 1
    return Cost(
        first.layers + more * rest.layers,
        first.parameters + more * rest.parameters,
        first.flops + more * rest.flops / stage.stride**2,
    )


def _block_cost(inputs: int, stage: Stage, stride: int, *, first: bool) -> Cost:
    """The cost of a basic block. Normalisation counts twice its channels; activation, addition and pooling once."""
    width, outputs, area, less = stage.bottleneck, stage.outputs, stage.kernel**2, stride**2
    entry = inputs * width * (area if stage.block == "kxkx" else 1)
    depthwise = stage.block == "k1dwk1"
    if stage.block in ("k1kx", "kxkx"):
        inner = width * outputs * area
        weights, normalised = entry + inner, width + outputs
        flops = entry + 3 * width + (inner + 3 * outputs) / less
    else:
        inner, last = width * (1 if depthwise else width) * area, width * outputs
        weights, normalised = entry + inner + last, 2 * width + outputs
        flops = entry + 3 * width + (inner + 3 * width + last + 3 * outputs) / less
    parameters = weights + 2 * normalised
    if depthwise:
        projected, pooled = False, stride == 2 and inputs == outputs
    else:
        projected, pooled = inputs != outputs or (first and stage.block == "k1kxk1"), stride == 2
    if projected:
        parameters += inputs * outputs + 2 * outputs
        flops += (inputs * outputs + 3 * outputs) / less
    return Cost(2 if stage.block in ("k1kx", "kxkx") else 3, parameters, flops + (inputs if pooled else 0))
