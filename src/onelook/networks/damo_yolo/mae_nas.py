"""The backbone structures found by MAE-NAS (DAMO-YOLO sec. 2.1): MAE-ResNet, MAE-CSP, and mobile ones (Nano models).

A structure is a stem and stages ("super blocks") of `depth` basic blocks; the first block changes channels and
resolution. Further settings (stem, SPP, CSP) define the network that `backbone` builds from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["k1kx", "kxkx", "k1kxk1", "k1dwk1"]

_MAX_CHANNELS = 16384  # limits what a damaged file can make the library allocate
_MAX_DEPTH = 128


@dataclass(frozen=True)
class Stage:
    """A stage of `depth` basic blocks; the first has the stride and changes the channels.

    block: the convolutions of a basic block in order: 1 is 1x1, x is kernel x kernel, dw is depthwise.
    outputs, bottleneck: output channels and inner channels of a block.
    """

    outputs: int
    bottleneck: int
    stride: int
    depth: int
    block: BlockKind = "k1kx"
    kernel: int = 3

    def __post_init__(self) -> None:
        for name in ("outputs", "bottleneck", "depth"):
            if not 0 < getattr(self, name) <= (_MAX_DEPTH if name == "depth" else _MAX_CHANNELS):
                raise ValueError(f"{name} of a stage cannot be {getattr(self, name)}")
        if self.stride not in (1, 2) or self.kernel % 2 == 0 or not 0 < self.kernel < 32:
            raise ValueError(f"a stage has stride 1 or 2 and an odd kernel, not {self.stride} and {self.kernel}")


@dataclass(frozen=True)
class Structure:
    """A backbone: channels of its stem (stride 2), its stages, and settings of the network built from them.

    focus: a Focus stem, else a 3x3 convolution of stride 2.  csp: every resolution is one CSP stage, whose blocks have
    half its channels.  spp: spatial pyramid pooling in the last stage (after its first block; in a CSP stage after the
    downsampling).  activation: of the blocks.  csp_activation: of the convolutions of a CSP stage around its blocks
    (official behaviour: ReLU, whatever the blocks have).  reparameterised: whether the k x k convolutions inside blocks
    are RepConvs.  normal_init: weights are initialised from N(0, 1 / inputs of a group), only in the Nano models
    (official code).
    """

    stem: int
    stages: tuple[Stage, ...]
    focus: bool = True
    csp: bool = False
    spp: bool = True
    activation: str = "relu"
    csp_activation: str = "relu"
    reparameterised: bool = True
    normal_init: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.stem <= _MAX_CHANNELS:
            raise ValueError(f"a stem cannot have {self.stem} channels")
        if 2 * 2 ** sum(stage.stride == 2 for stage in self.stages) != 32:
            raise ValueError("the strides of the stages must multiply to 16: the stem halves, four stages halve")
        if self.csp and (self.stages[0].stride != 2 or any(stage.block == "k1dwk1" for stage in self.stages)):
            raise ValueError("a CSP backbone starts with a stage of stride 2 and has no depthwise blocks")


def _k1kx(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth)


def _kxkx(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth, block="kxkx")


def _mobile(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth, block="k1dwk1", kernel=5)


# Every row: outputs, bottleneck, stride, depth. The strides after the stages are 4, 8 (C3), 16, 16 (C4), 32 (C5).

MAE_RESNET_T = Structure(
    24, (_k1kx(64, 24, 2, 2), _k1kx(96, 64, 2, 2), _k1kx(192, 96, 2, 2), _k1kx(192, 152, 1, 2), _k1kx(384, 192, 2, 1))
)
MAE_RESNET_S = Structure(
    32,
    (
        _k1kx(128, 24, 2, 1),
        _k1kx(128, 88, 2, 5),
        _k1kx(256, 128, 2, 3),
        _k1kx(256, 120, 1, 2),
        _k1kx(512, 144, 2, 1),
    ),
)
MAE_CSP_M = Structure(
    32,
    (
        _kxkx(128, 64, 2, 2),
        _kxkx(128, 64, 2, 4),
        _kxkx(256, 256, 2, 4),
        _kxkx(256, 256, 1, 4),
        _kxkx(512, 256, 2, 3),
    ),
    csp=True,
    activation="silu",
)
MAE_CSP_L = Structure(
    32,
    (
        _kxkx(128, 96, 2, 3),
        _kxkx(128, 96, 2, 5),
        _kxkx(256, 384, 2, 5),
        _kxkx(256, 384, 1, 5),
        _kxkx(512, 384, 2, 4),
    ),
    csp=True,
    activation="silu",
)


def _nano(stem: int, *stages: Stage, focus: bool = False) -> Structure:
    return Structure(stem, stages, focus=focus, activation="silu", reparameterised=False, normal_init=True)


# The bottlenecks are 3.5, 4, 4.5, 5 and 5.5 times the outputs of a stage, rounded to multiples of 8 (official code,
# which ignores the results of the search here).
MOBILE_NS = _nano(
    16,
    _mobile(24, 88, 2, 1),
    _mobile(40, 160, 2, 2),
    _mobile(64, 288, 2, 2),
    _mobile(80, 400, 1, 2),
    _mobile(160, 880, 2, 2),
)
MOBILE_NM = _nano(
    16,
    _mobile(40, 144, 2, 2),
    _mobile(64, 256, 2, 2),
    _mobile(112, 504, 2, 2),
    _mobile(128, 640, 1, 2),
    _mobile(256, 1408, 2, 1),
)
MOBILE_NL = _nano(
    24,
    _mobile(48, 168, 2, 1),
    _mobile(80, 320, 2, 2),
    _mobile(160, 720, 2, 2),
    _mobile(160, 800, 1, 3),
    _mobile(320, 1760, 2, 2),
)
