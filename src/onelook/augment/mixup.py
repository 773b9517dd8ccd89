"""MixUp for detection (YOLOX sec. 2.1): another image at a random scale, blended half and half, objects of both."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.colour import STRIP, to_rgb
from onelook.augment.letterbox import Letterbox
from onelook.augment.geometry import BoxFilter, flip_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.mix_image import MixImage, sample_mix_image
from onelook.augment.lazy_sample import ImageSampler


@dataclass(frozen=True)
class MixUp:
    """Blends a second image into the picture.

    probability: of doing it at all.  scale: (smallest, largest) factor of the second image.  keep: which of its objects
    survive the cut; where none does, nothing is blended (YOLOX's released weights). None keeps all of them and always
    blends (YOLOX since October 2021).
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.5, 1.5)
    keep: BoxFilter | None = BoxFilter(side=5.0)
    frame: Letterbox = Letterbox()

    def draw(self, draw: ImageSampler, rng: np.random.Generator) -> MixUpParameters | None:
        """What to blend in; None for nothing."""
        if rng.random() >= self.probability:
            return None
        partner = sample_mix_image(self.frame, self.scale, draw, rng)
        if partner is None:
            return None
        objects = partner.objects()
        inside = objects.clipped(partner.size)
        if self.keep is not None:
            inside = inside.rows(self.keep(objects.boxes, inside.boxes))
        return MixUpParameters(partner, inside) if len(inside) else None


@dataclass(frozen=True, eq=False)
class MixUpParameters:
    """One drawn MixUp: a partner, and those of its objects that count, clipped to the picture."""

    partner: MixImage
    found: Instances

    def flipped(self) -> MixUpParameters:
        """The same in the flipped picture."""
        return MixUpParameters(self.partner.flipped(), self.found.moved(flip_matrix(self.partner.size[1])))

    def objects(self, objects: Instances) -> Instances:
        """The picture's objects, and then the partner's."""
        return concatenate([objects, self.found])

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3 or 4) -> (H, W, 3): the mean of both, rounded down as published."""
        return average(image, self.partner.render())


@dataclass(frozen=True)
class BetaMixUp:
    """Blends a second mosaic into the picture, in a random ratio (Zhang et al. 2018; YOLOv7's code).

    probability: of doing it at all.  alpha: both parameters of the Beta distribution of the ratio; at 8 it is mostly
    between 0.3 and 0.7.
    """

    probability: float = 0.15
    alpha: float = 8.0

    def draw(self, rng: np.random.Generator) -> float | None:
        """The share of the first picture; None for no blend."""
        return float(rng.beta(self.alpha, self.alpha)) if rng.random() < self.probability else None

    @staticmethod
    def pixels(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
        """`share` of the first picture and the rest of the second, rounded down as published; uint8."""
        # OpenCV rounds to nearest; half less makes that truncation.
        return cv2.addWeighted(first, share, second, 1.0 - share, -0.5 + 1e-4)


def average(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(first + second) // 2 of uint8 images, into the second: strip by strip, and nothing wider than a byte.

    first: as large, but may have four channels where the second has three: the fourth does not count.
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
