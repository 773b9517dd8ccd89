"""Builds the backbone of DAMO-YOLO from a structure found by MAE-NAS (sec. 2.1 and fig. 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvBnAct, ConvStyle, make_activation
from onelook.layers.focus import Focus
from onelook.layers.rep_conv import RepConv
from onelook.layers.spp import Spp
from onelook.networks.detector import Backbone
from onelook.networks.structure import Stage, Structure

if TYPE_CHECKING:
    from onelook.types import Pyramid

SPP_ACTIVATION = "silu"  # official behaviour, for any activation of the blocks
LEVELS = (8, 16, 32)


class ResidualBlock(nn.Module):
    """Residual blocks k1kx, kxkx and k1kxk1: two or three convolutions, plus the input at stride 1, then activation.

    With `reparameterised`, the k x k convolution with the stride is a RepConv. Blocks of stride 2 have no shortcut (the
    cost model of the search counts one); if channels differ at stride 1, the shortcut is a 1x1 convolution.
    """

    def __init__(self, inputs: int, stage: Stage, stride: int, style: ConvStyle, *, reparameterised: bool) -> None:
        super().__init__()
        plain = replace(style, activation="identity")
        width, outputs, kernel = stage.bottleneck, stage.outputs, stage.kernel
        ends = stage.block == "k1kxk1"
        self.first = style.conv(inputs, width, kernel if stage.block == "kxkx" else 1)
        inner = style if ends else plain
        self.second: nn.Module
        if reparameterised:
            self.second = RepConv(width, width if ends else outputs, inner, kernel=kernel, stride=stride)
        else:
            self.second = inner.conv(width, width if ends else outputs, kernel, stride)
        self.third = plain.conv(width, outputs) if ends else nn.Identity()
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else plain.conv(inputs, outputs)
        self.activation = make_activation(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(self.second(self.first(x)))
        return self.activation(y if self.shortcut is None else y + self.shortcut(x))


class MobileBlock(nn.Module):
    """Inverted residual block k1dwk1 (MobileNetV2): 1x1, depthwise k x k, 1x1 without activation, plus the input.

    The input is added if shapes agree.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int, style: ConvStyle, *, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.expand = style.conv(inputs, hidden)
        self.depthwise = style.conv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = replace(style, activation="identity").conv(hidden, outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class CspResolution(nn.Module):
    """All blocks of one resolution as a CSP stage: downsampling, optional SPP, half the channels through the blocks.

    The downsampling convolution replaces the first block of the stage of stride 2; stages of stride 1 that follow keep
    all their blocks. Every block has half of the outputs as inputs and outputs, and the bottleneck of its stage.
    """

    def __init__(self, inputs: int, stages: list[Stage], structure: Structure, style: ConvStyle, *, spp: bool) -> None:
        super().__init__()
        outputs = stages[-1].outputs
        half = outputs // 2
        wrap = replace(style, activation=structure.csp_activation)
        blocks = [replace(stage, outputs=half) for stage in stages for _ in range(stage.depth)][1:]
        self.down = wrap.conv(inputs, outputs, 3, stride=2)
        self.spp: nn.Module = Spp(outputs, outputs, replace(style, activation=SPP_ACTIVATION)) if spp else nn.Identity()
        self.enter = wrap.conv(outputs, half)
        self.around = wrap.conv(outputs, half)
        self.blocks = nn.Sequential(
            *(ResidualBlock(half, block, 1, style, reparameterised=structure.reparameterised) for block in blocks)
        )
        self.join = wrap.conv(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spp(self.down(x))
        return self.join(torch.cat((self.blocks(self.enter(x)), self.around(x)), 1))


class SearchedBackbone(Backbone):
    """The network of a `Structure`; returns the last features of strides 8, 16 and 32."""

    strides = LEVELS

    def __init__(self, structure: Structure, style: ConvStyle) -> None:
        super().__init__()
        style = replace(style, activation=structure.activation)
        self.stem: nn.Module
        self.stem = Focus(3, structure.stem, style) if structure.focus else style.conv(3, structure.stem, 3, stride=2)
        groups = _resolutions(structure.stages) if structure.csp else [[stage] for stage in structure.stages]
        stages: list[nn.Module] = []
        inputs, stride = structure.stem, 2
        outputs: dict[int, tuple[int, int]] = {}  # stride -> index in `stages` and channels of its last feature
        for place, group in enumerate(groups):
            last = place == len(groups) - 1
            stages.append(_stage(inputs, group, structure, style, spp=structure.spp and last))
            inputs, stride = group[-1].outputs, stride * group[0].stride
            outputs[stride] = place, inputs
        self.stages = nn.ModuleList(stages)
        self.taken = tuple(outputs[stride][0] for stride in LEVELS)
        self.channels = tuple(outputs[stride][1] for stride in LEVELS)
        if structure.normal_init:
            _initialise_normal(self)

    def forward(self, pixels: Tensor) -> Pyramid:
        x = self.stem(pixels)
        pyramid = []
        for place, stage in enumerate(self.stages):
            x = stage(x)
            if place in self.taken:
                pyramid.append(x)
        return tuple(pyramid)

    def first_convolution(self) -> nn.Conv2d:
        return next(module for module in self.stem.modules() if isinstance(module, nn.Conv2d))


def _resolutions(stages: tuple[Stage, ...]) -> list[list[Stage]]:
    groups: list[list[Stage]] = []
    for stage in stages:
        if stage.stride == 2:
            groups.append([])
        groups[-1].append(stage)
    return groups


def _stage(inputs: int, group: list[Stage], structure: Structure, style: ConvStyle, *, spp: bool) -> nn.Module:
    if structure.csp:
        return CspResolution(inputs, group, structure, style, spp=spp)
    (stage,) = group
    blocks: list[nn.Module] = []
    for place in range(stage.depth):
        stride = stage.stride if place == 0 else 1
        if stage.block == "k1dwk1":
            blocks.append(
                MobileBlock(inputs, stage.outputs, stage.bottleneck, style, kernel=stage.kernel, stride=stride)
            )
        else:
            blocks.append(ResidualBlock(inputs, stage, stride, style, reparameterised=structure.reparameterised))
        inputs = stage.outputs
        if spp and place == 0:
            blocks.append(Spp(inputs, inputs, replace(style, activation=SPP_ACTIVATION)))
    return nn.Sequential(*blocks)


def _initialise_normal(backbone: nn.Module) -> None:
    """Initialises weights from N(0, 1 / inputs of a group) and shifts with 1e-4 (official code, Nano backbones)."""
    for module in backbone.modules():
        if isinstance(module, ConvBnAct):
            nn.init.normal_(module.conv.weight, 0.0, 1.0 / module.conv.weight.shape[1])
            nn.init.constant_(module.bn.bias, 1e-4)
