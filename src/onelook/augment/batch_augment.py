"""Finished pictures made of several finished pictures: CutMix, MixUp and mosaic for detection and classification.

A recipe's `extras` are made after its augmentation: each takes the picture, and may draw further pictures of the set
that went through the same augmentation. In detection an object is seen where its pixels are; in classification a
picture's classes have shares (`Sample.shares`), which become soft targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onelook.augment.geometry import BoxFilter
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import ImageSampler
from onelook.types import Sample


class BatchAugment(Protocol):
    """From a finished picture to another one of its size. `draw(rng)` gives further finished pictures."""

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample: ...


@dataclass(frozen=True, eq=False)
class AugmentedSampler:
    """A `ImageSampler` of pictures that went through an augmentation."""

    augment: BatchAugment
    draw: ImageSampler

    @property
    def size(self) -> tuple[int, int]:
        return self.draw.size

    @property
    def progress(self) -> float:
        return self.draw.progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        """Another finished picture."""
        return self.augment(self.draw(rng), self.draw, rng)


@dataclass(frozen=True)
class WithBatchAugments:
    """An augmentation, and what is made of its pictures, one after the other."""

    augment: BatchAugment
    extras: tuple[BatchAugment, ...]

    @property
    def uses_polygons(self) -> bool:
        """What the augmentation needs; extras need none."""
        return bool(getattr(self.augment, "uses_outlines", True))

    @property
    def needs_polygons(self) -> bool:
        """Whether a part of it does nothing where objects have none."""
        return bool(getattr(self.augment, "needs_outlines", False))

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        picture, finished = self.augment(sample, draw, rng), AugmentedSampler(self.augment, draw)
        for extra in self.extras:
            picture = extra(picture, finished, rng)
        return picture


@dataclass(frozen=True)
class OneOf:
    """One of several extras, each equally often, or none (Darknet: CutMix or mosaic, half of the time)."""

    choices: tuple[BatchAugment, ...]
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("there is nothing to choose from")

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        applies, number = rng.random() < self.probability, int(rng.integers(len(self.choices)))
        return self.choices[number](sample, draw, rng) if applies else sample


@dataclass(frozen=True)
class CutMix:
    """A rectangle of another picture in the place where it was (Yun et al. 2019).

    sides: (smallest, largest) side of the rectangle, as a part of the picture's (Darknet; the paper draws areas).
    visible: objects of which less is left are dropped; the others get the box of what is left.  keep: which objects of
    the rectangle survive its cut. A class has the share of its area.
    """

    probability: float = 0.5
    sides: tuple[float, float] = (0.3, 0.8)
    visible: float = 0.3
    keep: BoxFilter = BoxFilter(side=2.0, area=0.2, aspect=20.0)

    def __post_init__(self) -> None:
        if not 0 < self.sides[0] <= self.sides[1] <= 1:
            raise ValueError(f"sides are parts of the picture's, (smallest, largest), not {self.sides}")

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        other = draw(rng)
        height, width = sample.image.shape[:2]
        h, w = (max(1, int(rng.uniform(*self.sides) * side)) for side in (height, width))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        image = sample.image.copy()
        image[y : y + h, x : x + w] = other.image[y : y + h, x : x + w]
        part = h * w / (height * width)
        if sample.shares is not None:
            return mix_class_shares(image, [(sample, 1 - part), (other, part)])
        place = np.array((x, y, x + w, y + h), np.float64)
        left = remove_covered(instances_of(sample), place, self.visible)
        pasted = crop_instances(instances_of(other), place, self.keep)
        return to_sample(image, concatenate([left, pasted]))


@dataclass(frozen=True)
class BatchMixUp:
    """The mean of two pictures, with the objects of both (MixUp, Zhang et al. 2018; Darknet's has one half of each)."""

    probability: float = 0.5

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        other = draw(rng)
        image = ((sample.image.astype(np.uint16) + other.image) // 2).astype(np.uint8)
        if sample.shares is not None:
            return mix_class_shares(image, [(sample, 0.5), (other, 0.5)])
        return to_sample(image, concatenate([instances_of(sample), instances_of(other)]))


@dataclass(frozen=True)
class BatchMosaic:
    """Parts of four pictures around a random point (YOLOv4 sec. 3.3, as Darknet does it for classifiers).

    spread: the point is within these parts of the sides.  keep: which objects survive the cut. Each quarter shows the
    corner of its picture that lies next to the point. A class has the share of its area.
    """

    probability: float = 0.5
    spread: tuple[float, float] = (0.2, 0.8)
    keep: BoxFilter = BoxFilter(side=2.0, area=0.2, aspect=20.0)

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        height, width = sample.image.shape[:2]
        y, x = (int(rng.uniform(*self.spread) * side) for side in (height, width))
        samples = [sample, *(draw(rng) for _ in range(3))]
        places = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        image, parts, found = np.empty_like(sample.image), [], []
        for quarter, (one, (x1, y1, x2, y2)) in enumerate(zip(samples, places)):
            # Top left shows the picture's bottom right corner, and so on.
            dx, dy = (x - width if quarter in (0, 2) else x, y - height if quarter in (0, 1) else y)
            image[y1:y2, x1:x2] = one.image[y1 - dy : y2 - dy, x1 - dx : x2 - dx]
            parts.append((one, (x2 - x1) * (y2 - y1) / (height * width)))
            if sample.shares is None:
                moved = instances_of(one).moved(np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]]))
                found.append(crop_instances(moved, np.array((x1, y1, x2, y2), np.float64), self.keep))
        return to_sample(image, concatenate(found)) if sample.shares is None else mix_class_shares(image, parts)


def mix_class_shares(image: np.ndarray, parts: list[tuple[Sample, float]]) -> Sample:
    """A picture whose classes are those of several pictures, each by its part; a class that is in two counts once."""
    labels = np.concatenate([sample.labels for sample, _ in parts])
    given = [np.ones(len(sample.labels), np.float32) if sample.shares is None else sample.shares for sample, _ in parts]
    shares = np.concatenate([part * share for (_, part), share in zip(parts, given)])
    known, places = np.unique(labels, return_inverse=True)
    height, width = image.shape[:2]
    boxes = np.tile(np.array((0, 0, width, height), np.float32), (len(known), 1))
    return Sample(image, boxes, known, shares=np.bincount(places, shares, len(known)).astype(np.float32))


def instances_of(sample: Sample) -> Instances:
    """The objects of a picture."""
    return Instances(sample.boxes.astype(np.float64), sample.labels, sample.polygons)


def to_sample(image: np.ndarray, objects: Instances) -> Sample:
    """A picture of its objects."""
    return Sample(image, objects.boxes.astype(np.float32), objects.labels, objects.polygons)


def crop_instances(objects: Instances, place: np.ndarray, keep: BoxFilter) -> Instances:
    """What of the objects lies inside a place (x1, y1, x2, y2), where it is enough; outlines may go beyond."""
    boxes = np.concatenate(
        (np.maximum(objects.boxes[:, :2], place[:2]), np.minimum(objects.boxes[:, 2:], place[2:])), 1
    )
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    kept = keep(objects.boxes, boxes)
    return Instances(boxes, objects.labels, objects.polygons).rows(kept)


def remove_covered(objects: Instances, place: np.ndarray, visible: float) -> Instances:
    """The objects of which at least a part `visible` is outside a place, with boxes around what is outside."""
    boxes, (x1, y1, x2, y2) = objects.boxes.copy(), place
    low, high = np.maximum(boxes[:, :2], place[:2]), np.minimum(boxes[:, 2:], place[2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = area - (high - low).clip(min=0).prod(1) >= visible * area
    # A side moves only where the place covers the box from one edge to the other.
    across_x = (x1 <= boxes[:, 0]) & (boxes[:, 2] <= x2)
    across_y = (y1 <= boxes[:, 1]) & (boxes[:, 3] <= y2)
    for axis, across, start, stop in ((0, across_y, x1, x2), (1, across_x, y1, y2)):
        first, last = boxes[:, axis], boxes[:, axis + 2]
        from_start, from_end = across & (start <= first) & (stop > first), across & (stop >= last) & (start < last)
        boxes[:, axis] = np.where(from_start & (stop < last), stop, first)
        boxes[:, axis + 2] = np.where(from_end & (start > first), start, last)
    return Instances(boxes, objects.labels, objects.polygons).rows(kept)
