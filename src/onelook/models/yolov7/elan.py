"""The computational blocks and transitions of YOLOv7 (Wang, Bochkovskiy and Liao 2022, arXiv 2207.02696)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onelook.layers.conv import ConvStyle
from onelook.layers.rep_conv import RepConv

Downsample = Literal["pool", "both", "conv", "down_c"]


@dataclass(frozen=True)
class ElanChain:
    """The shape of an ELAN's chain of 3x3 convolutions.

    depth: how many.  step: every how many-th is joined, counted from the last.  rep: positions, from 0, of those that
    are re-parameterised (fig. 6 moves them).  identity: which of these have an identity branch: "planned" is those
    whose output is not joined (sec. 4.1).
    """

    depth: int
    step: int = 1
    rep: tuple[int, ...] = ()
    identity: Literal["planned", "always", "never"] = "planned"

    def joined(self, position: int) -> bool:
        """Whether the output of the convolution at `position` enters the concatenation."""
        return (self.depth - 1 - position) % self.step == 0


class Elan(nn.Module):
    """Efficient layer aggregation (fig. 2c): a chain of 3x3, of which several depths are joined and mixed by a 1x1.

    width: channels of the two 1x1 that begin it, one into the chain, one around it.  inner: of the 3x3. The join is
    ordered: deepest first, then the chain's beginning, then what goes around. Depth and the channels of the last 1x1
    are what compound scaling changes (fig. 3c): `width` stays.
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
    wanted = chain.identity == "always" or (chain.identity == "planned" and not chain.joined(place))
    return RepConv(inputs, outputs, style, identity=wanted and inputs == outputs)


class ExtendedElan(nn.Module):
    """E-ELAN (fig. 2d) as it is computed: `copies` ELANs side by side, each with its own transition, and their sum.

    A group convolution on expanded channels is several convolutions; shuffled groups are what concatenation inside each
    branch gathers; merging is the sum. One copy is the plain ELAN.
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
        """What every branch gives, before the sum."""
        return tuple(branch(x) for branch in self.branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.parts(x)
        return sum(others, first)


class Pool(nn.Module):
    """Half the resolution by 2x2 max-pooling; channels stay."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)


class DownBoth(nn.Module):
    """MP: half of the channels by a 3x3 of stride 2, half by pooling, each behind or before a 1x1, in this order."""

    def __init__(self, inputs: int, half: int, style: ConvStyle) -> None:
        super().__init__()
        self.pooled = style.conv(inputs, half)
        self.reduce = style.conv(inputs, half)
        self.strided = style.conv(half, half, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.strided(self.reduce(x)), self.pooled(F.max_pool2d(x, 2))), 1)


class DownC(nn.Module):
    """As `DownBoth`, but the strided path keeps all channels until its 3x3 (E6, D6, E6E)."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle) -> None:
        super().__init__()
        self.keep = style.conv(inputs, inputs)
        self.strided = style.conv(inputs, outputs // 2, 3, stride=2)
        self.pooled = style.conv(inputs, outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.strided(self.keep(x)), self.pooled(F.max_pool2d(x, 2))), 1)


class SppCspc(nn.Module):
    """Spatial pyramid pooling inside a cross stage partial block: half of the work pools, half goes around."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, sizes: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.before = nn.Sequential(
            style.conv(inputs, outputs), style.conv(outputs, outputs, 3), style.conv(outputs, outputs)
        )
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)
        self.after = nn.Sequential(style.conv((len(sizes) + 1) * outputs, outputs), style.conv(outputs, outputs, 3))
        self.around = style.conv(inputs, outputs)
        self.join = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        y = self.after(torch.cat((y, *(pool(y) for pool in self.pools)), 1))
        return self.join(torch.cat((y, self.around(x)), 1))


class LightSppCsp(nn.Module):
    """The same with the fewest convolutions (tiny): pools join the largest first, the unpooled map last."""

    def __init__(self, inputs: int, outputs: int, style: ConvStyle, sizes: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.around = style.conv(inputs, outputs)
        self.enter = style.conv(inputs, outputs)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in sizes)
        self.mix = style.conv((len(sizes) + 1) * outputs, outputs)
        self.join = style.conv(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        pooled = [y, *(pool(y) for pool in self.pools)]
        return self.join(torch.cat((self.mix(torch.cat(pooled[::-1], 1)), self.around(x)), 1))


def downsample(kind: Downsample, inputs: int, outputs: int, style: ConvStyle) -> nn.Module:
    """Half the resolution; `outputs` channels, except that "pool" keeps its `inputs`."""
    match kind:
        case "pool":
            return Pool()
        case "both":
            return DownBoth(inputs, outputs // 2, style)
        case "conv":
            return style.conv(inputs, outputs, 3, stride=2)
        case "down_c":
            return DownC(inputs, outputs, style)
