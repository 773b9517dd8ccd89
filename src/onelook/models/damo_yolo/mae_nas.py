"""The searched backbones of DAMO-YOLO as data (sec. 2.1): MAE-ResNet, MAE-CSP, and the mobile ones of the Nano models.

A structure is what MAE-NAS finds: a stem and super blocks, each `depth` basic blocks of which the first changes
channels and resolution. How it becomes a network (stem, SPP, CSP) is said beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["k1kx", "kxkx", "k1kxk1", "k1dwk1"]

_MOST = 16384  # channels, or blocks of a stage: what a damaged file cannot ask for


@dataclass(frozen=True)
class Stage:
    """`depth` basic blocks, the first with the stride and the change of channels.

    block: the convolutions of a basic block in order: 1 is 1x1, x is kernel x kernel, dw is depthwise.
    outputs, bottleneck: channels behind and inside a block.
    """

    outputs: int
    bottleneck: int
    stride: int
    depth: int
    block: BlockKind = "k1kx"
    kernel: int = 3

    def __post_init__(self) -> None:
        for name in ("outputs", "bottleneck", "depth"):
            if not 0 < getattr(self, name) <= (128 if name == "depth" else _MOST):
                raise ValueError(f"{name} of a stage cannot be {getattr(self, name)}")
        if self.stride not in (1, 2) or self.kernel % 2 == 0 or not 0 < self.kernel < 32:
            raise ValueError(f"a stage has stride 1 or 2 and an odd kernel, not {self.stride} and {self.kernel}")


@dataclass(frozen=True)
class Structure:
    """A backbone: its stem's channels (stride 2), its stages, and how they become a network.

    focus: a Focus stem, else a 3x3 convolution of stride 2.  csp: every resolution is one CSP stage, whose blocks have
    half its channels.  spp: spatial pyramid pooling in the last stage (behind its first block; in a CSP stage behind
    the downsampling).  reparameterised: whether k x k convolutions inside blocks train with a 1x1 branch (RepConv).
    normal_init: weights start as N(0, 1 / inputs a group), which only the Nano models do (official code).
    """

    stem: int
    stages: tuple[Stage, ...]
    focus: bool = True
    csp: bool = False
    spp: bool = True
    activation: str = "relu"
    reparameterised: bool = True
    normal_init: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.stem <= _MOST:
            raise ValueError(f"a stem cannot have {self.stem} channels")
        if 2 * 2 ** sum(stage.stride == 2 for stage in self.stages) != 32:
            raise ValueError("the strides of the stages must multiply to 16: the stem halves, four stages halve")
        if self.csp and (self.stages[0].stride != 2 or any(stage.block == "k1dwk1" for stage in self.stages)):
            raise ValueError("a CSP backbone begins with a stage of stride 2 and has no depthwise blocks")


def _k1kx(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth)


def _kxkx(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth, block="kxkx")


def _mobile(outputs: int, bottleneck: int, stride: int, depth: int) -> Stage:
    return Stage(outputs, bottleneck, stride, depth, block="k1dwk1", kernel=5)


# Every row: outputs, bottleneck, stride, depth. The strides behind the stages are 4, 8 (C3), 16, 16 (C4), 32 (C5).

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


# The bottlenecks are 3.5, 4, 4.5, 5 and 5.5 times the outputs of a stage, rounded to multiples of 8 (official code;
# those that the search found are ignored there).
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
