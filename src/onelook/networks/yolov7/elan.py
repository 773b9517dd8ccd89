"""ELAN and E-ELAN, the computational blocks of YOLOv7 (Wang, Bochkovskiy and Liao 2022, arXiv 2207.02696).

`ElanChain.identity` is the planned re-parameterisation (sec. 4.1): RepConv without identity beside a concatenation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from onelook.layers.conv import ConvStyle
from onelook.layers.rep_conv import RepConv


@dataclass(frozen=True)
class ElanChain:
    """Settings of an ELAN's chain of 3x3 convolutions.

    depth: their number.  step: every step-th, counted from the last, is concatenated.  rep: positions, from 0, of
    RepConvs (varied in fig. 6).  identity: which of these have an identity branch: "planned" are those whose output is
    not concatenated (planned re-parameterisation, sec. 4.1).
    """

    depth: int
    step: int = 1
    rep: tuple[int, ...] = ()
    identity: Literal["planned", "always", "never"] = "planned"

    def joined(self, position: int) -> bool:
        """Whether the output of the convolution at `position` enters the concatenation."""
        return (self.depth - 1 - position) % self.step == 0


class Elan(nn.Module):
    """ELAN, efficient layer aggregation network (fig. 2c): a chain of 3x3; outputs of several depths pass a last 1x1.

    width: channels of the two first 1x1, one before the chain, one around it.  inner: channels of the 3x3. Concatenated
    in the order: deepest first, then the input of the chain, then the path around it. Compound scaling (fig. 3c)
    changes the depth and the channels of the last 1x1, not `width`.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, inner: int, *, chain: ElanChain, style: ConvStyle
    ) -> None:
        super().__init__()
        self.around = style.conv(inputs, width)
        self.enter = style.conv(inputs, width)
        sides = (width, *(inner for _ in range(chain.depth)))
        self.chain = nn.ModuleList(_link(sides[place], inner, place, chain, style) for place in range(chain.depth))
        self._joined = tuple(chain.joined(place) for place in range(chain.depth))
        self.transition = style.conv(2 * width + sum(self._joined) * inner, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        joined = [self.around(x), y]
        for link, is_joined in zip(self.chain, self._joined):
            y = link(y)
            if is_joined:
                joined.append(y)
        return self.transition(torch.cat(joined[::-1], 1))


def _link(inputs: int, outputs: int, place: int, chain: ElanChain, style: ConvStyle) -> nn.Module:
    if place not in chain.rep:
        return style.conv(inputs, outputs, 3)
    identity = chain.identity == "always" or (chain.identity == "planned" and not chain.joined(place))
    return RepConv(inputs, outputs, style, identity=identity and inputs == outputs)


class ExtendedElan(nn.Module):
    """E-ELAN, extended ELAN (fig. 2d): the sum of `copies` parallel ELANs, each with its own last 1x1.

    Equal to the figure: a group convolution on expanded channels is several convolutions, concatenation inside each
    branch is the shuffle of the groups, and the sum merges them. One copy is the plain ELAN.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        inner: int,
        *,
        chain: ElanChain,
        style: ConvStyle,
        copies: int = 1,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            Elan(inputs, outputs, width, inner, chain=chain, style=style) for _ in range(copies)
        )

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs of all branches, before the sum."""
        return tuple(branch(x) for branch in self.branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.parts(x)
        return sum(others, first)
