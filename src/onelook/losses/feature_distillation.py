"""Distillation losses between the feature maps of a student and a teacher: CWD, MGD and mimicking.

A loss compares one level. Both maps have the same shape: the student's is projected to the teacher's channels before,
and (usually) every channel of both is normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Cwd:
    """Channel-wise distillation (CWD, Shu et al. 2021): divergence of softmaxes over the positions.

    temperature: of both softmaxes. The Kullback-Leibler divergence of each channel, times the squared temperature, is
    averaged over images and channels, so that the weight of a level does not depend on its size.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is above 0, not {self.temperature}")

    def trainable_module(self, channels: int) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor, module: nn.Module) -> Tensor:
        ours, target = ((maps.flatten(2) / self.temperature).log_softmax(2) for maps in (student, teacher))
        divergence = F.kl_div(ours, target, reduction="sum", log_target=True)
        return divergence * (self.temperature**2 / (student.shape[0] * student.shape[1]))


@dataclass(frozen=True)
class Mimic:
    """Mimicking (Li et al. 2017): the mean squared difference of the maps."""

    def trainable_module(self, channels: int) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor, module: nn.Module) -> Tensor:
        return F.mse_loss(student, teacher)


@dataclass(frozen=True)
class Mgd:
    """Masked generative distillation (MGD, Yang et al. 2022): generates the teacher's map from a masked student's map.

    masked: part of the positions that are hidden, the same in all channels.  scale: factor on the squared difference,
    which is summed over the map and averaged over images.  trains: whether the two convolutions of the generator are
    trained with the student, as in the paper; DAMO-YOLO's code keeps their initial values.
    """

    masked: float = 0.65
    scale: float = 2e-5
    trains: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.masked < 1:
            raise ValueError(f"masked is a part, 0 to below 1, not {self.masked}")

    def trainable_module(self, channels: int) -> nn.Module:
        """Returns the generator: two 3x3 convolutions of the teacher's channels, with a ReLU between."""
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        return nn.Sequential(first, nn.ReLU(inplace=True), second).requires_grad_(self.trains)

    def __call__(self, student: Tensor, teacher: Tensor, module: nn.Module) -> Tensor:
        return self.with_draws(student, teacher, module, torch.rand_like(student[:, :1]))

    def with_draws(self, student: Tensor, teacher: Tensor, generator: nn.Module, uniform: Tensor) -> Tensor:
        """Returns the loss for given random numbers (B, 1, H, W) in [0, 1); large numbers hide their position."""
        seen = (uniform <= 1.0 - self.masked).to(student.dtype)
        return F.mse_loss(generator(student * seen), teacher, reduction="sum") * (self.scale / student.shape[0])


def normalised(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalises each channel of (B, C, H, W) to mean 0 and deviation 1, over the positions of all images of the batch.

    Before a softmax, dividing by the deviation acts as a temperature for each channel (DAMO-YOLO sec. 2.4,
    "channel-wise dynamic temperature"). In distributed training each process normalises its own images (as published).
    """
    return F.batch_norm(maps, None, None, training=True, eps=eps)
