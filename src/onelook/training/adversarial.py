"""Self-adversarial training (YOLOv4 sec. 3.3): an attack by the network on its own input, then an ordinary step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_RANDOM_STREAM = 0x5A7  # a random stream of its own, apart from others that share the seed


@dataclass(frozen=True)
class Adversarial:
    """Settings of the attack: in some micro-batches the pixels change so that no object is detected; labels stay.

    rate: step along the gradient, for pixels of 0..1 (Darknet's `adversarial_lr`).  limit: largest change of a pixel's
    value, of 255; None for no limit, as in Darknet, where a rate of 1 changes a trained network's images by a third of
    the range on average, which no person would recognise; a change of 8 can hardly be seen. What each limit does to a
    network's scores, `benchmarks/adversarial.py` measures.
    probability: of a micro-batch.  start: part of the training (0 to 1) before the first attack (Darknet: its
    burn-in).  ramp: whether the step grows linearly from 0 with the training (as in Darknet).

    The gradient is that of `loss.adversarial_loss` with respect to the pixels: no weight and no statistic changes, and
    batch norm uses its running statistics. (Darknet leaks gradients into the biases of detection layers there.)
    """

    rate: float = 1.0
    limit: float | None = 8.0
    probability: float = 0.5
    start: float = 0.0
    ramp: bool = True

    def __post_init__(self) -> None:
        if self.limit is not None and not 0 < self.limit <= 255:
            raise ValueError(f"limit is a change of pixel values above 0 and up to 255, not {self.limit}")
        if self.rate < 0 or not 0 <= self.probability <= 1 or not 0 <= self.start <= 1:
            raise ValueError("rate is not negative, and probability and start lie between 0 and 1")

    def strength(self, progress: float, place: tuple[int, ...]) -> float:
        """The rate of the attack on a micro-batch, 0 for none: a pure function of `progress` and `place`.

        progress: part of the training that is done, 0 to 1.  place: (seed, step, micro-batch, process).
        """
        if progress < self.start:
            return 0.0
        drawn = np.random.default_rng((_RANDOM_STREAM, *place)).random()
        return self.rate * (progress if self.ramp else 1.0) if drawn < self.probability else 0.0


def adversarial_images(
    model: nn.Module,
    images: Tensor,
    objective: Callable[[Any], Tensor],
    rate: float,
    *,
    autocast: AbstractContextManager[object] | None = None,
    limit: float | None = None,
) -> Tensor:
    """Attacks a batch: images (B, 3, H, W) float RGB 0..255, moved by `rate` down a gradient and clipped.

    limit: largest change of a value, None for no limit.  objective: the scalar whose gradient it is, of what the model
    returns; lowest where no object is detected.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        attacked = images.detach().requires_grad_(True)
        with torch.enable_grad():
            with autocast or nullcontext():
                predictions = model(attacked)
            with torch.autocast(images.device.type, enabled=False):
                (gradient,) = torch.autograd.grad(objective(predictions), attacked)
    finally:
        for module, mode in modes:
            module.training = mode
    # `rate` is for pixels of 0..1: there the gradient is 255 times as large, and a step of 1 is 255 of our units. Where
    # the gradient is not finite (an unbounded box), the pixel stays.
    change = rate * 255.0**2 * gradient.nan_to_num(0.0, 0.0, 0.0)
    if limit is not None:
        change = change.clamp(-limit, limit)
    return (images - change).clamp(0.0, 255.0)
