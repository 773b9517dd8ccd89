"""Random training shapes: the size of the network's input changes every few steps (all four papers)."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    def size(self, base: tuple[int, int], seed: int, step: int, steps: int | None = None) -> tuple[int, int]:
        """(height, width) of the input in this step (of `steps`, which it does not need); the same in every process."""
        draw = step // self.every
        if draw == 0:
            return base
        low, high = round(self.low * base[0] / self.stride), round(self.high * base[0] / self.stride)
        cells = int(np.random.default_rng((seed, draw, 0x5CA1E)).integers(max(low, 1), max(high, 1), endpoint=True))
        return self._sides(base, cells)

    def largest(self, base: tuple[int, int]) -> tuple[int, int]:
        """The largest size that is drawn."""
        return max(base, self._sides(base, max(1, round(self.high * base[0] / self.stride))))

    def _sides(self, base: tuple[int, int], cells: int) -> tuple[int, int]:
        return self.stride * cells, self.stride * max(1, int(cells * base[1] / base[0]))


@dataclass(frozen=True)
class DarknetShapes:
    """Random training shapes as Darknet draws them (`random=1`): between 1 / `factor` and `factor` of the size.

    factor: 1.4 is Darknet's.  every: steps between two draws.  Sizes are multiples of `stride`, one `stride` more than
    the drawn part of the size rounds to; what was drawn as smaller never grows. The first draw and the last `closing`
    steps take the largest.
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
        draw = step // self.every
        if draw == 0 or (steps is not None and step >= steps - self.closing):
            return self.largest(base)
        rng = np.random.default_rng((seed, draw, 0x5CA1E))
        ratio = rng.uniform(1.0, self.factor)
        ratio = 1 / ratio if rng.random() < 0.5 else ratio
        height, width = (self._side(side, ratio) for side in base)
        return (min(height, base[0]), min(width, base[1])) if ratio < 1 else (height, width)

    def largest(self, base: tuple[int, int]) -> tuple[int, int]:
        """The largest size that is drawn."""
        return self._side(base[0], self.factor), self._side(base[1], self.factor)

    def _side(self, side: int, ratio: float) -> int:
        return (int(side * ratio / self.stride + 0.5) + 1) * self.stride


def resize_batch(images: Tensor, targets: Targets, size: tuple[int, int]) -> tuple[Tensor, Targets]:
    """(B, 3, H, W) float images and their boxes at another size (bilinear), on the device they are on."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images, targets
    images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    # Python factors on unbound coordinates: a tensor of four ratios would have to be copied to the device.
    ratio_y, ratio_x = size[0] / height, size[1] / width
    x1, y1, x2, y2 = targets.boxes.unbind(-1)
    boxes = torch.stack((x1 * ratio_x, y1 * ratio_y, x2 * ratio_x, y2 * ratio_y), -1)
    return images, replace(targets, boxes=boxes)
