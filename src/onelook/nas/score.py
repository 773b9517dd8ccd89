"""The score of MAE-NAS: the weighted entropy of a backbone's features, in closed form (MAE-DET sec. 3, DAMO-YOLO 2.1).

The network is reduced to the main branch of its convolutions, without shortcuts, normalisation and activations. With
weights and input from N(0, 1), the variance of a convolution's output is the number of its inputs: kernel area times
input channels of a group. The entropy of a Gaussian grows with the logarithm of its standard deviation, so these
logarithms add up over the depth; the number of channels adds its own logarithm.

The theory covers chains of convolutions, and by the same variances the joined branches of `trace`. It does not see
normalisation, activations, attention, pooling, or what short paths beside a long one are good for: structures of one
form are comparable, others are not.
"""

from __future__ import annotations

from functools import lru_cache
from math import log

from onelook.nas.trace import traced
from onelook.networks.branched_structure import AnyStructure
from onelook.networks.structure import Stage, Structure

DAMO_YOLO_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 16.0)  # of the features of stride 2, 4, 8, 16 and 32 (DAMO-YOLO)
MAE_DET_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 6.0)  # MAE-DET sec. 4.1

Weights = tuple[float, float, float, float, float]


@lru_cache(maxsize=2**16)
def block_log_deviation(inputs: int, stage: Stage) -> float:
    """What one basic block with `inputs` channels adds to the logarithm of the features' standard deviation."""
    width, area = stage.bottleneck, stage.kernel**2
    if stage.block == "k1kx":
        fans: tuple[int, ...] = (inputs, width * area)
    elif stage.block == "kxkx":
        fans = (inputs * area, width * area)
    elif stage.block == "k1kxk1":
        fans = (inputs, width * area, width)
    else:
        fans = (inputs, area, width)  # a depthwise convolution has one input channel a group
    return 0.5 * sum(map(log, fans))


@lru_cache(maxsize=2**16)
def stage_log_deviation(inputs: int, stage: Stage) -> float:
    """The same of a whole stage: its first block has `inputs` channels, the others the outputs of the stage."""
    return block_log_deviation(inputs, stage) + (stage.depth - 1) * block_log_deviation(stage.outputs, stage)


def stem_log_deviation(structure: Structure) -> float:
    """The same of the stem, a 3x3 convolution: of 12 channels after a Focus, else of the image's 3."""
    return 0.5 * log(structure.stem_inputs * 9)


def log_deviations(structure: Structure) -> tuple[float, ...]:
    """What the stem and every basic block add to the logarithm of the standard deviation, in order."""
    found, inputs = [stem_log_deviation(structure)], structure.stem
    for stage in structure.stages:
        found += [block_log_deviation(inputs, stage)] + [block_log_deviation(stage.outputs, stage)] * (stage.depth - 1)
        inputs = stage.outputs
    return tuple(found)


def entropies(structure: AnyStructure) -> tuple[float, ...]:
    """Entropy of the last features of stride 2, 4, 8, 16 and 32, without the constants of a Gaussian's.

    Each is the sum of `log_deviations` up to there plus the logarithm of its number of channels.
    """
    if not isinstance(structure, Structure):
        return traced(structure).entropies
    found, total, channels = [], stem_log_deviation(structure), structure.stem
    for stage in structure.stages:
        if stage.stride == 2:
            found.append(total + log(channels))
        total += stage_log_deviation(channels, stage)
        channels = stage.outputs
    return (*found, total + log(channels))


def score(structure: AnyStructure, weights: Weights = DAMO_YOLO_WEIGHTS) -> float:
    """The score that the search maximises: the weighted sum of `entropies`. It does not depend on the image's size."""
    return sum(weight * entropy for weight, entropy in zip(weights, entropies(structure)))
