"""What a student's feature maps are compared with a teacher's by: CWD, MGD and mimicking, and what lies before them.

A loss compares one level. Both maps come aligned: of one shape, the student's projected to the teacher's channels, and
(usually) every channel normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class FeatureLoss(Protocol):
    """A distance between two feature maps of one level."""

    def learnt(self, channels: int) -> nn.Module:
        """What learns beside the student at a level of so many channels; without parameters where nothing does."""
        ...

    def __call__(self, student: Tensor, teacher: Tensor, learnt: nn.Module) -> Tensor:
        """(B, C, H, W) float32, twice, and the level's `learnt` -> a scalar. No gradient flows to the teacher."""
        ...


@dataclass(frozen=True)
class Cwd:
    """Channel-wise distillation (Shu et al. 2021, eq. 3 and 4): every channel is a distribution over positions.

    temperature: of both softmaxes. The Kullback-Leibler divergence, times its square, is averaged over images and
    channels, so a level weighs the same whatever its size.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is above 0, not {self.temperature}")

    def learnt(self, channels: int) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor, learnt: nn.Module) -> Tensor:
        told, wanted = ((maps.flatten(2) / self.temperature).log_softmax(2) for maps in (student, teacher))
        divergence = F.kl_div(told, wanted, reduction="sum", log_target=True)
        return divergence * (self.temperature**2 / (student.shape[0] * student.shape[1]))


@dataclass(frozen=True)
class Mimic:
    """Mimicking (Li et al. 2017): the mean squared difference of the maps."""

    def learnt(self, channels: int) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor, learnt: nn.Module) -> Tensor:
        return F.mse_loss(student, teacher)


@dataclass(frozen=True)
class Mgd:
    """Masked generative distillation (Yang et al. 2022): the teacher's map, generated from a part of the student's.

    masked: part of the positions that are hidden, the same in all channels.  scale: factor on the squared difference,
    summed over everything and averaged over images.  trains: whether the two convolutions that generate are trained
    with the student, as the paper has it; DAMO-YOLO's code leaves them as they were initialised.
    """

    masked: float = 0.65
    scale: float = 2e-5
    trains: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked is a part, 0 to below 1, not {self.masked}")

    def learnt(self, channels: int) -> nn.Module:
        """The generator: two 3x3 convolutions of the teacher's channels, with a ReLU between."""
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        return nn.Sequential(first, nn.ReLU(inplace=True), second).requires_grad_(self.trains)

    def __call__(self, student: Tensor, teacher: Tensor, learnt: nn.Module) -> Tensor:
        return self.of(student, teacher, learnt, torch.rand_like(student[:, :1]))

    def of(self, student: Tensor, teacher: Tensor, generator: nn.Module, uniform: Tensor) -> Tensor:
        """The loss for known draws: (B, 1, H, W) in [0, 1); a position is hidden where its draw is large."""
        seen = (uniform <= 1.0 - self.masked).to(student.dtype)
        return F.mse_loss(generator(student * seen), teacher, reduction="sum") * (self.scale / student.shape[0])


def normalised(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """(B, C, H, W) with mean 0 and deviation 1 in every channel, over the positions of all images of the batch.

    Before a softmax, the deviation that is divided by works as a temperature of the channel's own (DAMO-YOLO sec. 2.5,
    "channel-wise dynamic temperature"). Several processes normalise each their own images (as published).
    """
    return F.batch_norm(maps, None, None, training=True, eps=eps)
