"""Structures of backbones: what MAE-NAS searches (DAMO-YOLO sec. 2.1) and what networks are built from.

A structure is a stem and stages ("super blocks") of `depth` basic blocks; the first block changes channels and
resolution. Further settings (stem, SPP, CSP) define the network that a family builds from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    @property
    def stem_inputs(self) -> int:
        """Input channels of the stem's convolution: a Focus has moved four pixels into 12 channels."""
        return 12 if self.focus else 3

    def level_channels(self) -> tuple[int, ...]:
        """Channels of the last features of stride 8, 16 and 32."""
        stride, found = 2, {}
        for stage in self.stages:
            stride *= stage.stride
            found[stride] = stage.outputs
        return tuple(found[level] for level in (8, 16, 32))

    def with_levels(self, channels: tuple[int, ...]) -> Structure:
        """A backbone that is quickly built, with these channels of its features of stride 8, 16 and 32."""
        stride, stages = 2, []
        by_stride = dict(zip((8, 16, 32), channels))
        for stage in self.stages:
            stride *= stage.stride
            stages.append(replace(stage, outputs=by_stride.get(stride, 8), bottleneck=8, depth=1))
        return replace(self, stem=8, stages=tuple(stages))
