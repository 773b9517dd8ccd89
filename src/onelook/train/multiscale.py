"""Random training shapes: the size of the network's input changes every few steps (all four papers)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onelook.types import Targets


@dataclass(frozen=True)
class MultiScale:
    """Draws another input size every `every` steps, as a pure function of the seed and the step.

    low, high: bounds as a ratio of the training size; sizes are multiples of `stride`.  The first `every` steps use the
    training size itself (as YOLOX does). YOLOX's paper trains the 640 models at 448 to 832 (0.7 to 1.3), Nano and Tiny
    (416) at 320 to 640.
    """

    low: float = 0.7
    high: float = 1.3
    every: int = 10
    stride: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low and high are ratios with 0 < low <= high, not {self.low} and {self.high}")
        if self.every < 1 or self.stride < 1:
            raise ValueError("every and stride are at least 1")

    def size(self, base: tuple[int, int], seed: int, step: int) -> tuple[int, int]:
        """(height, width) of the input in this step; the same in every process."""
        draw = step // self.every
        if draw == 0:
            return base
        low, high = round(self.low * base[0] / self.stride), round(self.high * base[0] / self.stride)
        cells = int(np.random.default_rng((seed, draw, 0x5CA1E)).integers(max(low, 1), max(high, 1), endpoint=True))
        return self.stride * cells, self.stride * max(1, int(cells * base[1] / base[0]))


def rescale(images: Tensor, targets: Targets, size: tuple[int, int]) -> tuple[Tensor, Targets]:
    """(B, 3, H, W) float images and their boxes at another size (bilinear), on the device they are on."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images, targets
    images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    # Python factors on unbound coordinates: a tensor of four ratios would have to be copied to the device.
    ratio_y, ratio_x = size[0] / height, size[1] / width
    x1, y1, x2, y2 = targets.boxes.unbind(-1)
    boxes = torch.stack((x1 * ratio_x, y1 * ratio_y, x2 * ratio_x, y2 * ratio_y), -1)
    return images, Targets(boxes, targets.labels, targets.valid)
