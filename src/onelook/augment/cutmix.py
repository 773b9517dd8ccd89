"""CutMix (Yun et al. 2019) for detection and classification."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onelook.augment.class_shares import mix_class_shares
from onelook.augment.geometry import BoxFilter
from onelook.augment.instances import Instances, concatenate
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class CutMix:
    """Replaces a random rectangle by the same rectangle of another image (Yun et al. 2019). A `BatchAugment`.

    sides: (smallest, largest) side of the rectangle, as a part of the image's (Darknet; the paper draws areas).
    visible: objects of which less than this part remains visible are dropped; the others get the box of what remains.
    keep: which objects of the pasted rectangle survive its clipping. A class gets the share of its area.
    """

    probability: float = 0.5
    sides: tuple[float, float] = (0.3, 0.8)
    visible: float = 0.3
    keep: BoxFilter = BoxFilter(side=2.0, area=0.2, aspect=20.0)

    def __post_init__(self) -> None:
        if not 0 < self.sides[0] <= self.sides[1] <= 1:
            raise ValueError(f"sides are parts of the image's, (smallest, largest), not {self.sides}")

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        other = sampler(rng)
        height, width = sample.image.shape[:2]
        h, w = (max(1, int(rng.uniform(*self.sides) * side)) for side in (height, width))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        image = sample.image.copy()
        image[y : y + h, x : x + w] = other.image[y : y + h, x : x + w]
        part = h * w / (height * width)
        if sample.shares is not None:
            return mix_class_shares(image, [(sample, 1 - part), (other, part)])
        rectangle = np.array((x, y, x + w, y + h), np.float64)
        remaining = remove_covered(Instances.from_sample(sample), rectangle, self.visible)
        pasted = Instances.from_sample(other).cropped(rectangle, self.keep)
        return concatenate([remaining, pasted]).to_sample(image)


def remove_covered(instances: Instances, rectangle: np.ndarray, visible: float) -> Instances:
    """The objects of which at least the part `visible` is outside a rectangle, with boxes around what is outside."""
    boxes, (x1, y1, x2, y2) = instances.boxes.copy(), rectangle
    low, high = np.maximum(boxes[:, :2], rectangle[:2]), np.minimum(boxes[:, 2:], rectangle[2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = area - (high - low).clip(min=0).prod(1) >= visible * area
    # A side moves only where the rectangle covers the box from one edge to the other.
    across_x = (x1 <= boxes[:, 0]) & (boxes[:, 2] <= x2)
    across_y = (y1 <= boxes[:, 1]) & (boxes[:, 3] <= y2)
    for axis, across, start, stop in ((0, across_y, x1, x2), (1, across_x, y1, y2)):
        first, last = boxes[:, axis], boxes[:, axis + 2]
        from_start, from_end = across & (start <= first) & (stop > first), across & (stop >= last) & (start < last)
        boxes[:, axis] = np.where(from_start & (stop < last), stop, first)
        boxes[:, axis + 2] = np.where(from_end & (start > first), start, last)
    return Instances(boxes, instances.labels, instances.polygons).select(kept)
