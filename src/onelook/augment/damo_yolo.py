"""DAMO-YOLO's augmentation: stretched images, mosaic, affine, a little MixUp, flip, and changes inside boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.scale_aware_autoaugment import ScaleAwareAutoAugment
from onelook.augment.collage import Collage
from onelook.augment.colour import to_rgb
from onelook.augment.letterbox import Resize, Stretch
from onelook.augment.geometry import BoxFilter, RandomAffine, intersect_boxes, flip_matrix, polygon_boxes
from onelook.augment.mixup import MixUp
from onelook.augment.mosaic import Mosaic
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class DamoAugment:
    """DAMO-YOLO's augmentation, as published in its code.

    mosaic: probability of a mosaic; otherwise the image is framed.  layout: how mosaics are laid.  affine: from the
    mosaic's canvas to the input.  keep: which objects survive it; where every object of a mosaic has an outline, boxes
    are made anew around what of it is seen.  mix: blends another image into a mosaic that shows objects.  smallest:
    objects of a mosaic that cover no more than these square pixels are dropped.  frame: of an image without mosaic.
    flip: probability of a horizontal flip.  box_level: changes inside boxes, after all else.

    The defaults are those of S, M and L; T and the Nano models have a shear of 0.2, Nano-s a scale of (0.75, 1.25).
    Official code makes every mosaic at 640 and then shrinks it to the input; here it is made at the input's size, and
    whoever wants the same thresholds scales `keep.side` and `smallest`.
    """

    mosaic: float = 1.0
    layout: Mosaic = Mosaic(frame=Stretch())
    affine: RandomAffine = RandomAffine(degrees=10.0, translate=0.2, scale=(0.1, 2.0), shear=2.0)
    keep: BoxFilter = BoxFilter(side=2.0, area=0.1, aspect=20.0)
    mix: MixUp | None = MixUp(probability=0.15, keep=None)
    smallest: float = 4.0
    frame: Resize = Stretch()
    flip: float = 0.5
    box_level: ScaleAwareAutoAugment | None = ScaleAwareAutoAugment()

    @property
    def uses_polygons(self) -> bool:
        """Boxes are made of outlines where all objects have one."""
        return self.mosaic > 0

    @property
    def plain(self) -> DamoAugment:
        """What is left in the closing epochs: framing, flip, and the changes inside boxes."""
        return replace(self, mosaic=0.0, mix=None)

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """A picture of `draw.size` around the sample and up to four others of the set."""
        found = self.mosaic_of(sample, draw, rng) if rng.random() < self.mosaic else self.framed(sample, draw)
        if rng.random() < self.flip:
            found = flip_horizontally(found)
        return found if self.box_level is None else self.box_level(found, draw, rng)

    def framed(self, sample: Sample, draw: ImageSampler) -> Sample:
        """The sample alone, in the frame; objects without area are dropped."""
        image, placement = self.frame(sample.image, draw.size)
        boxes = placement.forward(sample.boxes)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        return Sample(image, boxes[kept].astype(np.float32), sample.labels[kept])

    def mosaic_of(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """A mosaic around the sample, turned and scaled, perhaps with another image blended in."""
        canvas = self.layout.plan(*self.layout.draw(sample, draw, rng), draw.size)
        matrix, scale = self.affine.draw(rng, canvas.size, draw.size)
        picture = self.window(canvas, matrix, scale, draw.size)
        extra = self.mix.draw(draw, rng) if self.mix is not None and len(picture.objects) else None
        objects = picture.objects if extra is None else extra.objects(picture.objects)
        objects = objects.rows((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1) > self.smallest)
        image = to_rgb(picture.render()) if extra is None else extra.pixels(picture.render())
        return Sample(image, objects.boxes.astype(np.float32), objects.labels)

    def window(self, canvas: Collage, matrix: np.ndarray, scale: float, size: tuple[int, int]) -> Collage:
        """The canvas seen through the affine's window of `size`, with the objects that survive."""
        picture = canvas.moved(matrix, size)
        objects = picture.objects.clipped(size)
        if objects.polygons is not None and all(objects.polygons):
            # What lies beyond the canvas is no pixel of the picture, though the outline goes on.
            objects = replace(objects, boxes=intersect_boxes(polygon_boxes(objects.polygons, size), objects.boxes))
        kept = self.keep(canvas.objects.boxes * scale, objects.boxes)
        return replace(picture, objects=objects.rows(kept))


def flip_horizontally(sample: Sample) -> Sample:
    """The sample seen in a mirror."""
    turned = Instances(sample.boxes, sample.labels).moved(flip_matrix(sample.image.shape[1]))
    return replace(sample, image=cv2.flip(sample.image, 1), boxes=turned.boxes.astype(np.float32))
