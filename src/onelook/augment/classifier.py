"""Augmentation for classifiers: Darknet's random resized crop for training, and the centre crop for validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from onelook.augment.class_shares import equal_class_shares
from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import HsvScale, to_rgb
from onelook.augment.geometry import affine_matrix, flip_matrix, scale_matrix, translation_matrix
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import image_size
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class ClassifierAugment:
    """Darknet's augmentation for classifiers, with the settings of csdarknet53-omega.cfg.

    shorter: (smallest, largest) shorter side of the resized image, as a part of the input's (128 to 448 for 256).
    aspect: the image is made narrower or wider by up to this factor.  degrees: rotation within plus or minus this.
    Where the resized image is larger than the input, a random window of it is used. hsv, flip: colours, and the
    probability of a horizontal flip.
    """

    shorter: tuple[float, float] = (0.5, 1.75)
    aspect: float = 0.75
    degrees: float = 7.0
    hsv: HsvScale | None = HsvScale(hue=0.1, saturation=0.75, exposure=0.75)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.shorter[0] <= self.shorter[1] or self.aspect <= 0:
            raise ValueError("shorter is (smallest, largest) with 0 < smallest <= largest, and aspect is above 0")

    @property
    def uses_polygons(self) -> bool:
        """False: classifiers have no polygons."""
        return False

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """An image of `sampler.size` with the sample's classes in equal shares."""
        (height, width), source = sampler.size, image_size(sample)
        aspect = rng.uniform(1.0, max(self.aspect, 1 / self.aspect))
        aspect = 1 / aspect if rng.random() < 0.5 else aspect
        scale = rng.uniform(*self.shorter) * min(height, width) / min(source[0], source[1] * aspect)
        turn = affine_matrix(rng.uniform(-self.degrees, self.degrees), 1.0, 0.0, 0.0) @ scale_matrix(
            scale * aspect, scale
        )
        room_x, room_y = source[1] * scale * aspect - width, source[0] * scale - height
        at_x, at_y = (rng.uniform(-0.5, 0.5) * room for room in (room_x, room_y))
        matrix = (
            translation_matrix(width / 2 + at_x, height / 2 + at_y)
            @ turn
            @ translation_matrix(-source[1] / 2, -source[0] / 2)
        )
        flips = bool(rng.random() < self.flip)
        change = None if self.hsv is None else self.hsv.sample_parameters(rng)
        layer = Layer(sample, flip_matrix(width) @ matrix if flips else matrix, (0, 0, source[1], source[0]))
        collage = Collage(sampler.size, (layer,), Instances(np.zeros((0, 4)), np.zeros(0, np.int64)))
        jitter = to_rgb if self.hsv is None else partial(self.hsv.apply, change=change)
        return equal_class_shares(collage.render_jittered(jitter), sample)


@dataclass(frozen=True)
class CentreCrop:
    """Resizes the image until it just covers the input, and crops the centre (Darknet's validation of classifiers)."""

    @property
    def uses_polygons(self) -> bool:
        """False: classifiers have no polygons."""
        return False

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        return equal_class_shares(centre_crop(sample.image, sampler.size), sample)


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) resized until it just covers `size` (height, width), then cropped to it at the centre."""
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    high, wide = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    resized = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (high - size[0]) // 2, (wide - size[1]) // 2
    return resized[top : top + size[0], left : left + size[1]]
