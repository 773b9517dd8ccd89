"""Complete augmentations, one value each: what a recipe's `augment` and `closing.augment` hold.

A pipeline draws all its parameters first and then makes the picture with one deterministic function, so that no pixel
is read that is not seen and none is resampled twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from onelook.augment.collage import Collage
from onelook.augment.colour import Hsv, HsvGain, HsvShift, HsvChange, to_rgb
from onelook.augment.copy_paste import CopyPaste, CopyPasteParameters
from onelook.augment.letterbox import Resize, Letterbox, resize_image
from onelook.augment.geometry import BoxFilter, RandomAffine, flip_matrix, translation_matrix, scale_matrix
from onelook.augment.mixup import MixUpParameters, MixUp
from onelook.augment.mosaic import Mosaic
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class SingleImageAugment:
    """One image, framed: colour jitter and flip at most (YOLOX's closing epochs).

    hsv: colour jitter, None for none.  flip: probability of a horizontal flip (the image is flipped, not its frame).
    smallest: objects whose shorter side is not above this many pixels are dropped.

    An image without objects is only framed. If none of its objects is large enough, the image is framed as it is and
    keeps all that have an area.
    """

    hsv: Hsv | None = HsvGain()
    flip: float = 0.5
    smallest: float = 1.0
    frame: Resize = Letterbox()

    @property
    def uses_polygons(self) -> bool:
        """It does not need the objects' outlines; where there are some, they follow."""
        return False

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """The sample at `draw.size`; nothing is drawn from the set."""
        gains = None if self.hsv is None else self.hsv.draw(rng)
        flips = bool(rng.random() < self.flip)
        image = sample.image
        placement, (height, width) = self.frame.place((image.shape[0], image.shape[1]), draw.size)
        matrix = translation_matrix(placement.left, placement.top) @ scale_matrix(placement.scale_x, placement.scale_y)
        objects = Instances(sample.boxes, sample.labels, sample.polygons).moved(matrix)
        objects, changes = large_enough(objects, self.smallest)
        image = resize_image(image, (height, width), self.frame.interpolation)
        if changes and self.hsv is not None and gains is not None:
            image = self.hsv.apply(image, gains)
        if changes and flips:
            image = cv2.flip(image, 1)
            objects = objects.moved(flip_matrix(2 * placement.left + width))
        canvas = image
        if (height, width) != draw.size:
            canvas = np.full((*draw.size, 3), getattr(self.frame, "fill", 114), np.uint8)
            top, left = int(placement.top), int(placement.left)
            canvas[top : top + height, left : left + width] = image
        return Sample(canvas, objects.boxes.astype(np.float32), objects.labels, objects.polygons)


@dataclass(frozen=True)
class YoloxAugment:
    """YOLOX's strong augmentation (sec. 2.1): mosaic, affine, MixUp (or copy-paste), colour jitter, flip.

    mosaic: probability of a mosaic; otherwise the image goes through `SingleImageAugment` with the same jitter and flip.
    affine: from the mosaic's canvas to the input.  keep: which objects survive it, None for all.  mix: `MixUp`,
    `CopyPaste` (table 5) or None; done only where the mosaic shows an object.  hsv, flip, smallest: as in `SingleImageAugment`.

    The defaults (`YOLOX_PAPER`) are the published code at the date of the released weights, `YOLOX_OCTOBER_2021` since October 2021.
    Nano and Tiny are trained with `affine.scale` (0.5, 1.5) and without `mix`, Nano with `mosaic` 0.5. A picture
    without objects is neither jittered nor flipped; if all of its objects are too small, it keeps them and stays as
    it is (as published).
    """

    mosaic: float = 1.0
    layout: Mosaic = Mosaic()
    affine: RandomAffine = RandomAffine()
    keep: BoxFilter | None = BoxFilter()
    mix: MixUp | CopyPaste | None = MixUp()
    hsv: Hsv | None = HsvGain()
    flip: float = 0.5
    smallest: float = 8.0

    @property
    def uses_polygons(self) -> bool:
        """Whether it needs the objects' outlines; a loader then reads them."""
        return isinstance(self.mix, CopyPaste)

    @property
    def needs_polygons(self) -> bool:
        """Whether a part of it does nothing where objects have none."""
        return isinstance(self.mix, CopyPaste)

    @property
    def plain(self) -> SingleImageAugment:
        """What happens to an image that gets no mosaic."""
        return SingleImageAugment(self.hsv, self.flip, self.smallest, self.layout.frame)

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """A picture of `draw.size` around the sample and up to four others of the set."""
        if rng.random() >= self.mosaic:
            return self.plain(sample, draw, rng)
        canvas = self.layout.plan(*self.layout.draw(sample, draw, rng), draw.size)
        matrix, scale = self.affine.draw(rng, canvas.size, draw.size)
        picture = self.window(canvas, matrix, scale, draw.size)
        extra = self.mix.draw(draw, rng) if self.mix is not None and len(picture.objects) else None
        gains = None if self.hsv is None else self.hsv.draw(rng)
        return self.render(picture, extra, gains, bool(rng.random() < self.flip))

    def window(self, canvas: Collage, matrix: np.ndarray, scale: float, size: tuple[int, int]) -> Collage:
        """The canvas seen through the affine's window of `size`, with the objects that survive."""
        picture = canvas.moved(matrix, size)
        objects = picture.objects.clipped(size)
        if self.keep is not None:
            objects = objects.rows(self.keep(canvas.objects.boxes * scale, objects.boxes))
        return Collage(size, picture.layers, objects, picture.fill)

    def render(
        self,
        picture: Collage,
        extra: MixUpParameters | CopyPasteParameters | None,
        gains: HsvChange | None,
        flips: bool,
    ) -> Sample:
        """The picture with its objects: a pure function of what was drawn."""
        objects = picture.objects if extra is None else extra.objects(picture.objects)
        objects, changes = large_enough(objects, self.smallest)
        if changes and flips:
            turned = flip_matrix(picture.size[1])
            picture = Collage(picture.size, picture.layers, objects, picture.fill).moved(turned, picture.size)
            objects = picture.objects
            extra = None if extra is None else extra.flipped()
        jitter = None if self.hsv is None or gains is None or not changes else partial(self.hsv.apply, steps=gains)
        if extra is not None:
            image = extra.pixels(picture.render())
            image = image if jitter is None else jitter(image)
        else:
            image = to_rgb(picture.render()) if jitter is None else picture.jittered(jitter)
        return Sample(image, objects.boxes.astype(np.float32), objects.labels, objects.polygons)


def large_enough(objects: Instances, smallest: float) -> tuple[Instances, bool]:
    """The objects whose shorter side is above `smallest`, and whether the picture is jittered and flipped.

    Where there is none, all objects that have an area, and no jitter and flip (as published; there, also those
    without area).
    """
    sides = objects.shorter_sides()
    kept = sides > smallest
    changes = bool(kept.any())
    return objects.rows(kept if changes else sides > 0), changes


YOLOX_PAPER = YoloxAugment()
YOLOX_OCTOBER_2021 = YoloxAugment(
    affine=RandomAffine(centred=False), keep=None, mix=MixUp(keep=None), hsv=HsvShift(), smallest=1.0
)
