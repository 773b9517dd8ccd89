"""YOLOv7's augmentation: mosaics of four or nine, random affine, MixUp of two mosaics, colour jitter, paste-in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from onelook.augment.collage import Collage
from onelook.augment.colour import Hsv, HsvGain, to_rgb
from onelook.augment.letterbox import Resize, Letterbox
from onelook.augment.geometry import (
    BoxFilter,
    RandomAffine,
    intersect_boxes,
    flip_matrix,
    polygon_boxes,
    translation_matrix,
    scale_matrix,
)
from onelook.augment.mixup import BetaMixUp
from onelook.augment.mosaic import Mosaic, Mosaic9, join_tiles, place_tile
from onelook.augment.instances import Instances, concatenate
from onelook.augment.yolov7_copy_paste import Yolov7CopyPaste
from onelook.augment.perspective import Perspective
from onelook.augment.lazy_sample import ImageSampler, image_size
from onelook.types import Sample


@dataclass(frozen=True)
class Yolov7Augment:
    """YOLOv7's strong augmentation, as published in its code.

    mosaic: probability of a mosaic; otherwise the framed image goes through the same affine.  nine: share of the
    mosaics that show nine images.  layout, layout_nine: how mosaics are laid.  frame: of an image without mosaic.
    affine: from canvas to input.  keep: which objects survive it.  outlined_area: replaces `keep.area` for objects with
    an outline, whose boxes are made anew around what of the outline is seen.  mix: blends a second mosaic in, only into
    mosaics.  hsv: colour jitter.  paste: objects pasted after it.  flip, flip_vertical: probabilities.  perspective:
    a tilt before the affine, published as none.

    The defaults are those of P5 and P6 models; tiny has `affine` RandomAffine(0, 0.1, (0.5, 1.6), 0) and probabilities
    of 0.05 for `mix` and `paste`. The published scale is 1 - s to 1.1 + s. Nothing closes in the last epochs.
    """

    mosaic: float = 1.0
    nine: float = 0.2
    layout: Mosaic = Mosaic()
    layout_nine: Mosaic9 = Mosaic9()
    frame: Resize = Letterbox(anchor="centre")
    affine: RandomAffine = RandomAffine(degrees=0.0, translate=0.2, scale=(0.1, 2.0), shear=0.0)
    keep: BoxFilter = BoxFilter(side=2.0, area=0.1, aspect=20.0)
    outlined_area: float = 0.01
    mix: BetaMixUp | None = BetaMixUp()
    hsv: Hsv | None = HsvGain()
    paste: Yolov7CopyPaste | None = Yolov7CopyPaste()
    flip: float = 0.5
    flip_vertical: float = 0.0
    perspective: Perspective | None = None

    @property
    def uses_polygons(self) -> bool:
        """Boxes are made of outlines where there are some."""
        return True

    @property
    def needs_polygons(self) -> bool:
        """Whether a part of it does nothing where objects have none."""
        return self.paste is not None

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """A picture of `draw.size` around the sample and up to seventeen others of the set."""
        in_mosaic = bool(rng.random() < self.mosaic)
        first = self.window(self.mosaic_of(sample, draw, rng) if in_mosaic else self.framed(sample, draw), draw, rng)
        share = self.mix.draw(rng) if self.mix is not None and in_mosaic else None
        second = None if share is None else self.window(self.mosaic_of(draw(rng), draw, rng), draw, rng)
        objects = first.objects if second is None else concatenate([first.objects, second.objects])
        gains = None if self.hsv is None else self.hsv.draw(rng)
        jitter = to_rgb if self.hsv is None or gains is None else partial(self.hsv.apply, steps=gains)
        pastings = () if self.paste is None else self.paste.draw(objects, draw, rng)
        turns = (bool(rng.random() < self.flip_vertical), bool(rng.random() < self.flip))

        if second is None or share is None:
            image = first.jittered(jitter)
        else:
            image = jitter(BetaMixUp.pixels(first.render(), second.render(), share))
        return flip_sample(Yolov7CopyPaste.pixels(image, pastings), Yolov7CopyPaste.objects(objects, pastings), *turns)

    def mosaic_of(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Collage:
        """A canvas of twice the input's size with the sample and three or eight others."""
        layout = self.layout_nine if rng.random() < self.nine else self.layout
        return layout.plan(*layout.draw(sample, draw, rng), draw.size)

    def framed(self, sample: Sample, draw: ImageSampler) -> Collage:
        """The sample alone, in the frame."""
        placement, sides = self.frame.place(image_size(sample), draw.size)
        return join_tiles(
            [place_tile(sample, placement, sides, (int(placement.left), int(placement.top)), draw.size)], draw.size
        )

    def window(self, canvas: Collage, draw: ImageSampler, rng: np.random.Generator) -> Collage:
        """The canvas seen through a random affine's window, with the objects that survive."""
        matrix, scale = self.affine.draw(rng, canvas.size, draw.size)
        if self.perspective is None:
            picture = canvas.moved(matrix, draw.size)
        else:
            picture = self.perspective.moved(canvas, matrix @ self.perspective.draw(rng, canvas.size), draw.size)
        objects, before = picture.objects.clipped(draw.size), canvas.objects.boxes * scale
        kept = self.keep(before, objects.boxes)
        if objects.polygons is not None:
            outlined = np.array([len(rings) > 0 for rings in objects.polygons], bool)
            # What lies beyond the canvas is no pixel of the picture, though the outline goes on.
            tight = intersect_boxes(polygon_boxes(objects.polygons, draw.size), objects.boxes)
            objects = replace(objects, boxes=np.where(outlined[:, None], tight, objects.boxes))
            loose = replace(self.keep, area=self.outlined_area)
            kept = np.where(outlined, loose(before, objects.boxes), kept)
        return replace(picture, objects=objects.rows(kept))


def flip_sample(image: np.ndarray, objects: Instances, vertically: bool, horizontally: bool) -> Sample:
    """The picture as it is, or flipped, as a sample."""
    height, width = image.shape[:2]
    if vertically:
        image, objects = cv2.flip(image, 0), objects.moved(translation_matrix(0, height) @ scale_matrix(1, -1))
    if horizontally:
        image, objects = cv2.flip(image, 1), objects.moved(flip_matrix(width))
    return Sample(image, objects.boxes.astype(np.float32), objects.labels, objects.polygons)
