"""YOLOv7's augmentation: mosaic of four or nine, random affine, MixUp of two mosaics, colour jitter, copy-paste."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.collage import Collage
from onelook.augment.colour import Hsv, HsvGain, HsvMap, to_rgb
from onelook.augment.geometry import (
    BoxFilter,
    RandomAffine,
    flip_matrix,
    intersect_boxes,
    polygon_boxes,
    scale_matrix,
    translation_matrix,
)
from onelook.augment.image_plan import PlannedSample, plan_collage
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import image_size
from onelook.augment.letterbox import Letterbox, Resize
from onelook.augment.mixup import BetaMixUp
from onelook.augment.mosaic import Mosaic, Mosaic9, join_tiles, place_tile
from onelook.augment.perspective import Perspective
from onelook.augment.sampler import ImageSampler
from onelook.augment.yolov7_copy_paste import PastedObject, Yolov7CopyPaste
from onelook.types import Sample


@dataclass(frozen=True, eq=False)
class _Parameters:
    """The random parameters of an image.

    first, second: windows of mosaics; the second is blended in, `ratio` being the share of the first.  instances: of
    both.  pasted: see `Yolov7CopyPaste`.  flips: vertically, horizontally.
    """

    first: Collage
    second: Collage | None
    ratio: float | None
    instances: Instances
    colours: HsvMap | None
    pasted: tuple[PastedObject, ...]
    flips: tuple[bool, bool]


@dataclass(frozen=True)
class Yolov7Augment:
    """YOLOv7's strong augmentation, as published in its code.

    mosaic: probability of a mosaic; otherwise the letterboxed image goes through the same affine.  nine: share of the
    mosaics that show nine images.  layout, layout_nine: the two kinds of mosaic.  frame: of an image without mosaic.
    affine: from canvas to input.  keep: which objects survive it.  outlined_area: replaces `keep.area` for objects with
    polygons, whose new boxes enclose the visible part of the polygons.  mix: blends a second mosaic in, only into
    mosaics.  hsv: colour jitter.  paste: objects pasted after it.  flip, flip_vertical: probabilities.  perspective:
    a perspective transform before the affine; the published code uses none.

    The defaults are those of P5 and P6 models; tiny has `affine` RandomAffine(0, 0.1, (0.5, 1.6), 0) and probabilities
    of 0.05 for `mix` and `paste`. The published scale is 1 - s to 1.1 + s. The augmentation stays the same to the last
    epoch.
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
        """True: boxes are computed from polygons where there are some."""
        return True

    @property
    def needs_polygons(self) -> bool:
        """Whether a part of the augmentation does nothing where objects have no polygons."""
        return self.paste is not None and not self.paste.from_boxes

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """An image of `sampler.size` made of the sample and up to seventeen others of the set."""
        parts = self._sampled(sample, sampler, rng)
        first, second, ratio = parts.first, parts.second, parts.ratio
        jitter = to_rgb if parts.colours is None else parts.colours.apply
        if second is None or ratio is None:
            image = first.render_jittered(jitter)
        else:
            image = jitter(BetaMixUp.apply(first.render(), second.render(), ratio))
        image = Yolov7CopyPaste.apply(image, parts.pasted)
        return flip_sample(image, Yolov7CopyPaste.add_instances(parts.instances, parts.pasted), *parts.flips)

    @property
    def not_planned(self) -> tuple[str, ...]:
        """The settings with which `plan` cannot make an image."""
        return tuple(name for name in ("paste", "perspective") if getattr(self, name) is not None)

    def plan(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> PlannedSample:
        """The same sample, described for another device."""
        parts = self._sampled(sample, sampler, rng)
        assert not parts.pasted  # see `not_planned`
        first, second, size = plan_collage(parts.first), None, sampler.size
        if parts.second is not None:
            second = plan_collage(parts.second).flipped(size, *parts.flips)
        instances = flip_instances(parts.instances, size, *parts.flips)
        share = 1.0 if parts.ratio is None else parts.ratio
        return PlannedSample.of(
            size, instances, first.flipped(size, *parts.flips), second, share=share, colours=parts.colours
        )

    def _sampled(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> _Parameters:
        is_mosaic = bool(rng.random() < self.mosaic)
        canvas = self.mosaic_canvas(sample, sampler, rng) if is_mosaic else self.letterboxed(sample, sampler)
        first = self.crop(canvas, sampler, rng)
        ratio = self.mix.sample_parameters(rng) if self.mix is not None and is_mosaic else None
        second = None
        if ratio is not None:
            second = self.crop(self.mosaic_canvas(sampler(rng), sampler, rng), sampler, rng)
        instances = first.instances if second is None else concatenate([first.instances, second.instances])
        gains = None if self.hsv is None else self.hsv.sample_parameters(rng)
        colours = None if self.hsv is None or gains is None else self.hsv.map(gains)
        pasted = () if self.paste is None else self.paste.sample_parameters(instances, sampler, rng)
        flips = (bool(rng.random() < self.flip_vertical), bool(rng.random() < self.flip))
        return _Parameters(first, second, ratio, instances, colours, pasted, flips)

    def mosaic_canvas(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Collage:
        """A canvas of twice the input's size with the sample and three or eight others."""
        layout = self.layout_nine if rng.random() < self.nine else self.layout
        return layout.collage(*layout.sample_parameters(sample, sampler, rng), sampler.size)

    def letterboxed(self, sample: Sample, sampler: ImageSampler) -> Collage:
        """The sample alone, resized to the input."""
        transform, sides = self.frame.get_transform(image_size(sample), sampler.size)
        corner = (int(transform.left), int(transform.top))
        return join_tiles([place_tile(sample, transform, sides, corner, sampler.size)], sampler.size)

    def crop(self, canvas: Collage, sampler: ImageSampler, rng: np.random.Generator) -> Collage:
        """The canvas under a random affine matrix, cropped to the input's size, with the objects that survive."""
        matrix, scale = self.affine.sample_parameters(rng, canvas.size, sampler.size)
        if self.perspective is None:
            window = canvas.transformed(matrix, sampler.size)
        else:
            matrix = matrix @ self.perspective.sample_parameters(rng, canvas.size)
            window = self.perspective.transformed(canvas, matrix, sampler.size)
        instances, before = window.instances.clipped(sampler.size), canvas.instances.boxes * scale
        kept = self.keep(before, instances.boxes)
        if instances.polygons is not None:
            has_polygons = np.array([len(rings) > 0 for rings in instances.polygons], bool)
            # What lies beyond the canvas is no pixel of the image, though the polygon goes on.
            tight = intersect_boxes(polygon_boxes(instances.polygons, sampler.size), instances.boxes)
            instances = replace(instances, boxes=np.where(has_polygons[:, None], tight, instances.boxes))
            loose = replace(self.keep, area=self.outlined_area)
            kept = np.where(has_polygons, loose(before, instances.boxes), kept)
        return replace(window, instances=instances.select(kept))


def flip_sample(image: np.ndarray, instances: Instances, vertically: bool, horizontally: bool) -> Sample:
    """A sample of an image and its objects, flipped as the two arguments say."""
    size = (image.shape[0], image.shape[1])
    if vertically:
        image = cv2.flip(image, 0)
    if horizontally:
        image = cv2.flip(image, 1)
    return flip_instances(instances, size, vertically, horizontally).to_sample(image)


def flip_instances(instances: Instances, size: tuple[int, int], vertically: bool, horizontally: bool) -> Instances:
    """The objects of an image of `size` (height, width), flipped as the two arguments say."""
    if vertically:
        instances = instances.transformed(translation_matrix(0, size[0]) @ scale_matrix(1, -1))
    return instances.transformed(flip_matrix(size[1])) if horizontally else instances
