"""DAMO-YOLO's augmentation: mosaic of stretched images, affine, MixUp, flip, and scale-aware AutoAugment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.collage import Collage
from onelook.augment.colour import to_rgb
from onelook.augment.geometry import BoxFilter, RandomAffine, flip_matrix, intersect_boxes, polygon_boxes
from onelook.augment.image_plan import PlanCanvas, PlannedSample, plan_collage, plan_mix_image, plan_resized
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import image_size
from onelook.augment.letterbox import Resize, ResizeTransform, Stretch, is_bilinear
from onelook.augment.mixup import MixUp, MixUpParameters
from onelook.augment.mosaic import Mosaic
from onelook.augment.sampler import ImageSampler
from onelook.augment.scale_aware_autoaugment import ScaleAwareAutoAugment
from onelook.types import Sample


@dataclass(frozen=True)
class DamoAugment:
    """DAMO-YOLO's augmentation, as published in its code.

    mosaic: probability of a mosaic; otherwise the image is only resized.  layout: of the mosaic.  affine: from the
    mosaic's canvas to the input.  keep: which objects survive it; where every object of a mosaic has polygons, the new
    boxes enclose the visible part of the polygons.  mix: blends another image into a mosaic that shows objects.
    smallest: objects of a mosaic that cover no more than these square pixels are dropped.  frame: of an image without
    mosaic.  flip: probability of a horizontal flip.  box_level: changes inside boxes, after everything else.

    reference_side: side of the input, in pixels, that `keep` and `smallest` are stated for; at other sizes, boxes are
    converted to it before they are compared. None: they are stated in pixels of the input, whatever its size.

    The defaults are those of S, M and L; T and the Nano models have a shear of 0.2, Nano-s a scale of (0.75, 1.25).
    The official code makes every mosaic at 640 pixels and then shrinks it to the input. Here it is made at the input's
    size: with a `reference_side` of 640 the same objects are dropped.
    """

    mosaic: float = 1.0
    layout: Mosaic = Mosaic(frame=Stretch())
    affine: RandomAffine = RandomAffine(degrees=10.0, translate=0.2, scale=(0.1, 2.0), shear=2.0)
    keep: BoxFilter = BoxFilter(side=2.0, area=0.1, aspect=20.0)
    mix: MixUp | None = MixUp(probability=0.15, keep=None)
    smallest: float = 4.0
    frame: Resize = Stretch()
    flip: float = 0.5
    reference_side: float | None = None
    box_level: ScaleAwareAutoAugment | None = ScaleAwareAutoAugment()

    def __post_init__(self) -> None:
        if self.reference_side is not None and not self.reference_side > 0:
            raise ValueError(f"reference_side is a number of pixels above 0, or none, not {self.reference_side}")

    @property
    def uses_polygons(self) -> bool:
        """Whether polygons are needed: in a mosaic, boxes are computed from them where all objects have some."""
        return self.mosaic > 0

    @property
    def without_mosaic(self) -> DamoAugment:
        """The augmentation of the closing epochs: resize, flip, and the changes inside boxes."""
        return replace(self, mosaic=0.0, mix=None)

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """An image of `sampler.size` made of the sample and up to four others of the set."""
        is_mosaic = rng.random() < self.mosaic
        result = self.mosaic_sample(sample, sampler, rng) if is_mosaic else self.resized(sample, sampler)
        if rng.random() < self.flip:
            result = flip_horizontally(result)
        return result if self.box_level is None else self.box_level(result, sampler, rng)

    @property
    def not_planned(self) -> tuple[str, ...]:
        """The settings with which `plan` cannot make an image."""
        alone = () if self.mosaic >= 1 or is_bilinear(self.frame) else ("frame",)
        return alone if self.box_level is None else ("box_level", *alone)

    def plan(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> PlannedSample:
        """The same sample, described for another device."""
        is_mosaic, second = rng.random() < self.mosaic, None
        if is_mosaic:
            window, mixed, instances = self._sampled_mosaic(sample, sampler, rng)
            first = plan_collage(window)
            second = None if mixed is None else plan_mix_image(mixed.mix_image)
            boxes, labels = instances.boxes, instances.labels
        else:
            transform, sides = self.frame.get_transform(image_size(sample), sampler.size)
            layer = plan_resized(sample, sides, (int(transform.left), int(transform.top)), sampler.size)
            first = PlanCanvas(() if layer is None else (layer,), int(getattr(self.frame, "fill", 0)))
            boxes, labels = self._resized_objects(sample, transform)
        instances = Instances(boxes.astype(np.float32), labels)
        if rng.random() < self.flip:
            instances = instances.transformed(flip_matrix(sampler.size[1]))
            first = first.flipped(sampler.size, False, True)
            second = None if second is None else second.flipped(sampler.size, False, True)
        return PlannedSample.of(sampler.size, instances, first, second)

    def resized(self, sample: Sample, sampler: ImageSampler) -> Sample:
        """The sample alone, resized to the input; objects without area are dropped."""
        image, transform = self.frame(sample.image, sampler.size)
        return Sample(image, *self._resized_objects(sample, transform))

    @staticmethod
    def _resized_objects(sample: Sample, transform: ResizeTransform) -> tuple[np.ndarray, np.ndarray]:
        boxes = transform.to_input(sample.boxes)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        return boxes[kept].astype(np.float32), sample.labels[kept]

    def mosaic_sample(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """A mosaic with the sample under a random affine matrix, perhaps with another image blended in."""
        window, mixed, instances = self._sampled_mosaic(sample, sampler, rng)
        image = to_rgb(window.render()) if mixed is None else mixed.apply(window.render())
        return Sample(image, instances.boxes.astype(np.float32), instances.labels)

    def _sampled_mosaic(
        self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator
    ) -> tuple[Collage, MixUpParameters | None, Instances]:
        """The random parameters of a mosaic: its window, what is blended in, and the objects of both."""
        canvas = self.layout.collage(*self.layout.sample_parameters(sample, sampler, rng), sampler.size)
        matrix, scale = self.affine.sample_parameters(rng, canvas.size, sampler.size)
        window = self.crop(canvas, matrix, scale, sampler.size)
        mixed = self.mix.sample_parameters(sampler, rng) if self.mix is not None and len(window.instances) else None
        instances = window.instances if mixed is None else mixed.add_instances(window.instances)
        boxes = instances.boxes * self._reference_scale(sampler.size)
        return window, mixed, instances.select((boxes[:, 2:] - boxes[:, :2]).prod(1) > self.smallest)

    def crop(self, canvas: Collage, matrix: np.ndarray, scale: float, size: tuple[int, int]) -> Collage:
        """The canvas under the affine matrix, cropped to `size`, with the objects that survive."""
        window = canvas.transformed(matrix, size)
        instances = window.instances.clipped(size)
        if instances.polygons is not None and all(instances.polygons):
            # What lies beyond the canvas is no pixel of the image, though the polygon goes on.
            tight = intersect_boxes(polygon_boxes(instances.polygons, size), instances.boxes)
            instances = replace(instances, boxes=tight)
        reference = self._reference_scale(size)
        kept = self.keep(canvas.instances.boxes * scale * reference, instances.boxes * reference)
        return replace(window, instances=instances.select(kept))

    def _reference_scale(self, size: tuple[int, int]) -> np.ndarray:
        """(4,) factors from box coordinates in an input of `size` to one of `reference_side`."""
        if self.reference_side is None:
            return np.ones(4)
        return self.reference_side / np.array([size[1], size[0], size[1], size[0]], np.float64)


def flip_horizontally(sample: Sample) -> Sample:
    """The sample flipped left to right."""
    flipped = Instances(sample.boxes, sample.labels).transformed(flip_matrix(sample.image.shape[1]))
    return replace(sample, image=cv2.flip(sample.image, 1), boxes=flipped.boxes.astype(np.float32))
