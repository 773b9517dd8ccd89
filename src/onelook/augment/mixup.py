"""MixUp (Zhang et al. 2018) for detection and classification: two images blended, with the objects of both.

`MixUp` is YOLOX's (also DAMO-YOLO's), `BetaMixUp` YOLOv7's, `BatchMixUp` Darknet's.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.class_shares import mix_class_shares
from onelook.augment.colour import STRIP, to_rgb
from onelook.augment.geometry import BoxFilter, flip_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.letterbox import Letterbox
from onelook.augment.mix_image import MixImage, sample_mix_image
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class MixUp:
    """Blends a second image at a random scale into the image, half of each (YOLOX sec. 2.2).

    probability: of doing it at all.  scale: (smallest, largest) factor of the second image.  keep: which of its objects
    survive the clipping; where none does, nothing is blended (YOLOX's released weights). None keeps all of them and
    always blends (YOLOX since October 2021).
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.5, 1.5)
    keep: BoxFilter | None = BoxFilter(side=5.0)
    frame: Letterbox = Letterbox()

    def sample_parameters(self, sampler: ImageSampler, rng: np.random.Generator) -> MixUpParameters | None:
        """The image to blend in; None for no blend."""
        if rng.random() >= self.probability:
            return None
        mix_image = sample_mix_image(self.frame, self.scale, sampler, rng)
        if mix_image is None:
            return None
        instances = mix_image.instances()
        inside = instances.clipped(mix_image.size)
        if self.keep is not None:
            inside = inside.select(self.keep(instances.boxes, inside.boxes))
        return MixUpParameters(mix_image, inside) if len(inside) else None


@dataclass(frozen=True, eq=False)
class MixUpParameters:
    """The random parameters of one MixUp: the second image, and those of its objects that are added, clipped."""

    mix_image: MixImage
    instances: Instances

    def flipped(self) -> MixUpParameters:
        """The same MixUp for a first image that is flipped horizontally: the second one is flipped, too."""
        return MixUpParameters(
            self.mix_image.flipped(), self.instances.transformed(flip_matrix(self.mix_image.size[1]))
        )

    def add_instances(self, instances: Instances) -> Instances:
        """The first image's objects, then the second image's."""
        return concatenate([instances, self.instances])

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3 or 4) -> (H, W, 3): the mean of both images, rounded down as published."""
        return average(image, self.mix_image.render())


@dataclass(frozen=True)
class BetaMixUp:
    """Blends a second mosaic into the image in a random ratio (Zhang et al. 2018; YOLOv7's code).

    probability: of doing it at all.  alpha: both parameters of the Beta distribution of the ratio; at 8 it is mostly
    between 0.3 and 0.7.
    """

    probability: float = 0.15
    alpha: float = 8.0

    def sample_parameters(self, rng: np.random.Generator) -> float | None:
        """The ratio: the share of the first image; None for no blend."""
        return float(rng.beta(self.alpha, self.alpha)) if rng.random() < self.probability else None

    @staticmethod
    def apply(first: np.ndarray, second: np.ndarray, ratio: float) -> np.ndarray:
        """`ratio` of the first image plus the rest of the second, rounded down as published; uint8."""
        # OpenCV rounds to nearest; half less makes that truncation.
        return cv2.addWeighted(first, ratio, second, 1.0 - ratio, -0.5 + 1e-4)


@dataclass(frozen=True)
class BatchMixUp:
    """The mean of two finished images with the objects of both (Zhang et al. 2018; Darknet, with half of each).

    A `BatchAugment`.
    """

    probability: float = 0.5

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        other = sampler(rng)
        image = average(sample.image, other.image.copy())
        if sample.shares is not None:
            return mix_class_shares(image, [(sample, 0.5), (other, 0.5)])
        return concatenate([Instances.from_sample(sample), Instances.from_sample(other)]).to_sample(image)


def average(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(first + second) // 2 of uint8 images, written into `second`: in strips, without a wider integer type.

    first: as large, but may have four channels where the second has three; the fourth is ignored.
    """
    rows = max(1, STRIP // max(first.shape[1], 1))
    for top in range(0, len(first), rows):
        one, other = first[top : top + rows], second[top : top + rows]
        one = one if one.shape == other.shape else to_rgb(one)
        common = np.bitwise_and(one, other)
        np.bitwise_xor(one, other, out=other)
        np.right_shift(other, 1, out=other)
        np.add(other, common, out=other)
    return second
