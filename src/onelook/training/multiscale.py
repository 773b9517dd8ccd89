"""Multi-scale training: the size of the network's input changes at random every few steps (all four papers)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from onelook.types import Targets


@dataclass(frozen=True)
class MultiScale:
    """Multi-scale training of YOLOX: a new input size every `every` steps, a pure function of seed and step.

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

    def size(self, base: tuple[int, int], seed: int, step: int, steps: int | None = None) -> tuple[int, int]:
        """(height, width) of the input in this step (`steps` is not used); the same in every process."""
        period = step // self.every
        if period == 0:
            return base
        low, high = round(self.low * base[0] / self.stride), round(self.high * base[0] / self.stride)
        cells = int(np.random.default_rng((seed, period, 0x5CA1E)).integers(max(low, 1), max(high, 1), endpoint=True))
        return self._size_of_rows(base, cells)

    def largest(self, base: tuple[int, int]) -> tuple[int, int]:
        """The largest possible size."""
        return max(base, self._size_of_rows(base, max(1, round(self.high * base[0] / self.stride))))

    def _size_of_rows(self, base: tuple[int, int], rows: int) -> tuple[int, int]:
        return self.stride * rows, self.stride * max(1, int(rows * base[1] / base[0]))


@dataclass(frozen=True)
class DarknetShapes:
    """Multi-scale training as in Darknet (`random=1`): sizes between 1 / `factor` and `factor` of the base size.

    factor: 1.4 is Darknet's.  every: steps between two changes.  Sizes are multiples of `stride`: the scaled size,
    rounded, plus one `stride`; a scale below 1 never gives more than the base size. The first `every` and the last
    `closing` steps use the largest size.
    """

    factor: float = 1.4
    every: int = 10
    stride: int = 32
    closing: int = 100

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor is at least 1, not {self.factor}")
        if self.every < 1 or self.stride < 1 or self.closing < 0:
            raise ValueError("every and stride are at least 1, closing at least 0")

    def size(self, base: tuple[int, int], seed: int, step: int, steps: int | None = None) -> tuple[int, int]:
        """(height, width) of the input in this step of `steps`; the same in every process."""
        period = step // self.every
        if period == 0 or (steps is not None and step >= steps - self.closing):
            return self.largest(base)
        rng = np.random.default_rng((seed, period, 0x5CA1E))
        ratio = rng.uniform(1.0, self.factor)
        ratio = 1 / ratio if rng.random() < 0.5 else ratio
        height, width = (self._side(side, ratio) for side in base)
        return (min(height, base[0]), min(width, base[1])) if ratio < 1 else (height, width)

    def largest(self, base: tuple[int, int]) -> tuple[int, int]:
        """The largest possible size."""
        return self._side(base[0], self.factor), self._side(base[1], self.factor)

    def _side(self, side: int, ratio: float) -> int:
        return (int(side * ratio / self.stride + 0.5) + 1) * self.stride


def resize_batch(images: Tensor, targets: Targets, size: tuple[int, int]) -> tuple[Tensor, Targets]:
    """Resizes float images (B, 3, H, W) and their boxes to another size (bilinear), on their device."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images, targets
    images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    # Python numbers on unbound coordinates: a tensor of four ratios would need a copy to the device.
    ratio_y, ratio_x = size[0] / height, size[1] / width
    x1, y1, x2, y2 = targets.boxes.unbind(-1)
    boxes = torch.stack((x1 * ratio_x, y1 * ratio_y, x2 * ratio_x, y2 * ratio_y), -1)
    return images, replace(targets, boxes=boxes)
