"""Gaussian blur of a whole image or of its background (YOLOv4 sec. 4.2; Darknet's `blur`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class Blur:
    """Blurs the whole image, or everything outside the objects' boxes, or nothing. A `BatchAugment`.

    whole, background: the probabilities of the first two.  kernel: side of the kernel in pixels; for the whole image it
    is at most an eighth of the smallest object's shorter side. (The paper names a bilateral filter, Darknet's code uses
    this one.) The setting for classifiers is Blur(whole=0.25, background=0, kernel=15).
    """

    whole: float = 1 / 3
    background: float = 1 / 3
    kernel: int = 17

    def __post_init__(self) -> None:
        if self.whole < 0 or self.background < 0 or self.whole + self.background > 1 or self.kernel < 1:
            raise ValueError("whole and background are probabilities that sum to 1 at most, kernel is at least 1")

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        chance = rng.random()
        if chance >= self.whole + self.background:
            return sample
        if chance < self.whole:
            kernel = self.kernel
            if len(sample.boxes) and sample.shares is None:
                kernel = min(kernel, int((sample.boxes[:, 2:] - sample.boxes[:, :2]).min() / 8))
            return sample if kernel < 2 else replace(sample, image=gaussian_blur(sample.image, kernel))
        image = gaussian_blur(sample.image, self.kernel)
        for x1, y1, x2, y2 in sample.boxes.round().astype(int).clip(min=0).tolist():
            image[y1:y2, x1:x2] = sample.image[y1:y2, x1:x2]
        return replace(sample, image=image)


def gaussian_blur(image: np.ndarray, kernel: int) -> np.ndarray:
    """(H, W, 3) uint8 under a Gaussian kernel of this side; an even side is made odd."""
    side = kernel // 2 * 2 + 1
    return cv2.GaussianBlur(image, (side, side), 0)
