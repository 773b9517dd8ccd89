"""Self-adversarial training (YOLOv4 sec. 3.3): the network first alters the picture, then learns from what it made."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from onelook.training.recipe import AnyLoss

_DRAWS = 0x5A7  # keeps these draws apart from others that share the seed


@dataclass(frozen=True)
class Adversarial:
    """In some passes the picture is changed so that the network sees no objects in it; the labels stay as they are.

    rate: step along the gradient, for pixels of 0..1 (Darknet's `adversarial_lr`).  probability: of a pass.
    start: part of the training before which nothing is altered (Darknet: its burn-in).  ramp: whether the step grows
    from 0 with the training (Darknet's does).

    The gradient is that of `loss.deception` of the picture: no weight and no statistic changes meanwhile, and batch
    norm uses its running statistics. (Darknet leaks gradients into the biases of detection layers there.)
    """

    rate: float = 1.0
    probability: float = 0.5
    start: float = 0.0
    ramp: bool = True

    def __post_init__(self) -> None:
        if self.rate < 0 or not 0 <= self.probability <= 1 or not 0 <= self.start <= 1:
            raise ValueError("rate is not negative, and probability and start lie between 0 and 1")

    def strength(self, progress: float, place: tuple[int, ...]) -> float:
        """The rate of a pass, 0 where its pictures stay as they are: a pure function of its place in the training.

        progress: 0 to 1, the part that is done.  place: tells the pass from all others (seed, step, number, process).
        """
        if progress < self.start:
            return 0.0
        drawn = np.random.default_rng((_DRAWS, *place)).random()
        return self.rate * (progress if self.ramp else 1.0) if drawn < self.probability else 0.0


def adversarial_images(
    model: nn.Module,
    images: Tensor,
    loss: AnyLoss,
    rate: float,
    autocast: AbstractContextManager[object] | None = None,
) -> Tensor:
    """(B, 3, H, W) float RGB 0..255 moved by `rate` along the steepest way to be seen as empty, inside 0..255."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        pictures = images.detach().requires_grad_(True)
        with torch.enable_grad():
            with autocast or nullcontext():
                predictions = model(pictures)
            with torch.autocast(images.device.type, enabled=False):
                (slope,) = torch.autograd.grad(loss.adversarial_loss(predictions), pictures)
    finally:
        for module, mode in modes:
            module.training = mode
    # For pixels of 0..1 the slope is 255 times as steep, and a step of 1 is 255 of ours. Where it is not finite (a box
    # without bounds), the pixel stays.
    return (images - rate * 255.0**2 * slope.nan_to_num(0.0, 0.0, 0.0)).clamp(0.0, 255.0)
