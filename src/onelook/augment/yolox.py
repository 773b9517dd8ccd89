"""YOLOX's augmentation (sec. 2.1), and that of a single image.

All random parameters are drawn first; one deterministic function then makes the image, so that only visible pixels are
read and none is resampled twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.collage import Collage
from onelook.augment.colour import Hsv, HsvChange, HsvGain, HsvMap, HsvShift, to_rgb
from onelook.augment.copy_paste import CopyPaste, CopyPasteParameters
from onelook.augment.geometry import BoxFilter, RandomAffine, flip_matrix, scale_matrix, translation_matrix
from onelook.augment.image_plan import PlanCanvas, PlannedSample, plan_collage, plan_mix_image, plan_resized
from onelook.augment.instances import Instances
from onelook.augment.lazy_sample import image_size
from onelook.augment.letterbox import Letterbox, Resize, is_bilinear, resize_image
from onelook.augment.mixup import MixUp, MixUpParameters
from onelook.augment.mosaic import Mosaic
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True)
class SingleImageAugment:
    """One image, resized to the input, with colour jitter and flip at most (YOLOX's closing epochs).

    hsv: colour jitter, None for none.  flip: probability of a horizontal flip (of the image, not of its letterbox).
    smallest: objects whose shorter side is not above this many pixels are dropped.

    An image without objects is only resized. If none of its objects is large enough, it is only resized as well, and
    all objects with an area are kept.
    """

    hsv: Hsv | None = HsvGain()
    flip: float = 0.5
    smallest: float = 1.0
    frame: Resize = Letterbox()

    @property
    def uses_polygons(self) -> bool:
        """False: polygons are not needed; where the data has some, they are transformed with the boxes."""
        return False

    @property
    def not_planned(self) -> tuple[str, ...]:
        """The settings with which `plan` cannot make an image."""
        return () if is_bilinear(self.frame) else ("frame",)

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """The sample at `sampler.size`; no further image is used."""
        return self._sampled(sample, sampler, rng).render()

    def plan(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> PlannedSample:
        """The same sample, described for another device."""
        return self._sampled(sample, sampler, rng).plan()

    def _sampled(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> _Resized:
        gains = None if self.hsv is None else self.hsv.sample_parameters(rng)
        flips = bool(rng.random() < self.flip)
        transform, (height, width) = self.frame.get_transform(image_size(sample), sampler.size)
        matrix = translation_matrix(transform.left, transform.top) @ scale_matrix(transform.scale_x, transform.scale_y)
        instances = Instances(sample.boxes, sample.labels, sample.polygons).transformed(matrix)
        instances, changes = drop_small(instances, self.smallest)
        if changes and flips:
            instances = instances.transformed(flip_matrix(2 * transform.left + width))
        return _Resized(
            sample,
            sampler.size,
            self.frame,
            (height, width),
            (int(transform.left), int(transform.top)),
            changes and flips,
            self.hsv.map(gains) if changes and self.hsv is not None and gains is not None else None,
            instances,
        )


@dataclass(frozen=True, eq=False)
class _Resized:
    """The random parameters of a single image: resized to `sides` (height, width), with its corner at (x, y)."""

    sample: Sample
    size: tuple[int, int]
    frame: Resize
    sides: tuple[int, int]
    corner: tuple[int, int]
    flips: bool
    colours: HsvMap | None
    instances: Instances

    def render(self) -> Sample:
        """The image with its objects."""
        image = resize_image(self.sample.image, self.sides, self.frame.interpolation)
        image = image if self.colours is None else self.colours.apply(image)
        canvas = image = cv2.flip(image, 1) if self.flips else image
        if self.sides != self.size:
            canvas = np.full((*self.size, 3), self._fill, np.uint8)
            (left, top), (height, width) = self.corner, self.sides
            canvas[top : top + height, left : left + width] = image
        return self.instances.to_sample(canvas)

    def plan(self) -> PlannedSample:
        """The same for another device."""
        layer = plan_resized(self.sample, self.sides, self.corner, self.size)
        assert layer is not None  # a resized image lies inside the input
        (left, top), (height, width) = self.corner, self.sides
        if self.flips:  # the image, not its letterbox
            layer = layer.flipped((2 * top + height, 2 * left + width), False, True)
        return PlannedSample.of(
            self.size,
            self.instances,
            PlanCanvas((layer,), self._fill),
            colours=self.colours,
            coloured=(left, top, left + width, top + height),
        )

    @property
    def _fill(self) -> int:
        return int(getattr(self.frame, "fill", 114))


@dataclass(frozen=True)
class YoloxAugment:
    """YOLOX's strong augmentation (sec. 2.1): mosaic, affine, MixUp (or copy-paste), colour jitter, flip.

    mosaic: probability of a mosaic; otherwise `SingleImageAugment` is applied with the same jitter and flip.
    affine: from the mosaic's canvas to the input.  keep: which objects survive it, None for all.  mix: `MixUp`,
    `CopyPaste` (table 5) or None; applied only where the mosaic shows an object.  hsv, flip, smallest: as in
    `SingleImageAugment`.

    The defaults (`YOLOX_PAPER`) are the published code at the date of the released weights, `YOLOX_OCTOBER_2021` is
    the code since then. Nano and Tiny are trained with `affine.scale` (0.5, 1.5) and without `mix`, Nano with `mosaic`
    0.5. An image without objects gets no jitter and no flip; the same holds where all of its objects are too small,
    and these are then kept (as published).
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
        """Whether the objects' polygons are needed; a loader then reads them."""
        return isinstance(self.mix, CopyPaste)

    @property
    def needs_polygons(self) -> bool:
        """Whether a part of the augmentation does nothing where objects have no polygons."""
        return isinstance(self.mix, CopyPaste) and not self.mix.from_boxes

    @property
    def without_mosaic(self) -> SingleImageAugment:
        """The augmentation of an image that gets no mosaic."""
        return SingleImageAugment(self.hsv, self.flip, self.smallest, self.layout.frame)

    @property
    def not_planned(self) -> tuple[str, ...]:
        """The settings with which `plan` cannot make an image."""
        pasted = ("mix",) if isinstance(self.mix, CopyPaste) else ()
        alone = () if self.mosaic >= 1 or is_bilinear(self.layout.frame) else ("layout.frame",)
        return pasted + alone

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """An image of `sampler.size` made of the sample and up to four others of the set."""
        if rng.random() >= self.mosaic:
            return self.without_mosaic(sample, sampler, rng)
        return self._sampled(sample, sampler, rng).render()

    def plan(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> PlannedSample:
        """The same sample, described for another device."""
        if rng.random() >= self.mosaic:
            return self.without_mosaic.plan(sample, sampler, rng)
        return self._sampled(sample, sampler, rng).plan()

    def _sampled(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> _Mixed:
        canvas = self.layout.collage(*self.layout.sample_parameters(sample, sampler, rng), sampler.size)
        matrix, scale = self.affine.sample_parameters(rng, canvas.size, sampler.size)
        window = self.crop(canvas, matrix, scale, sampler.size)
        mixed = self.mix.sample_parameters(sampler, rng) if self.mix is not None and len(window.instances) else None
        gains = None if self.hsv is None else self.hsv.sample_parameters(rng)
        return self._finished(window, mixed, gains, bool(rng.random() < self.flip))

    def crop(self, canvas: Collage, matrix: np.ndarray, scale: float, size: tuple[int, int]) -> Collage:
        """The canvas under the affine matrix, cropped to `size`, with the objects that survive."""
        window = canvas.transformed(matrix, size)
        instances = window.instances.clipped(size)
        if self.keep is not None:
            instances = instances.select(self.keep(canvas.instances.boxes * scale, instances.boxes))
        return Collage(size, window.layers, instances, window.fill)

    def _finished(
        self,
        window: Collage,
        mixed: MixUpParameters | CopyPasteParameters | None,
        gains: HsvChange | None,
        flips: bool,
    ) -> _Mixed:
        """The image with its objects: a deterministic function of the random parameters."""
        instances = window.instances if mixed is None else mixed.add_instances(window.instances)
        instances, changes = drop_small(instances, self.smallest)
        if changes and flips:
            flip = flip_matrix(window.size[1])
            window = Collage(window.size, window.layers, instances, window.fill).transformed(flip, window.size)
            instances = window.instances
            mixed = None if mixed is None else mixed.flipped()
        colours = None if self.hsv is None or gains is None or not changes else self.hsv.map(gains)
        return _Mixed(window, mixed, colours, instances)


@dataclass(frozen=True, eq=False)
class _Mixed:
    """A window of a mosaic, what is mixed into it, the colours of both, and all objects."""

    window: Collage
    mixed: MixUpParameters | CopyPasteParameters | None
    colours: HsvMap | None
    instances: Instances

    def render(self) -> Sample:
        """The image with its objects."""
        colours = self.colours
        if self.mixed is not None:
            image = self.mixed.apply(self.window.render())
            image = image if colours is None else colours.apply(image)
        else:
            image = to_rgb(self.window.render()) if colours is None else self.window.render_jittered(colours.apply)
        return self.instances.to_sample(image)

    def plan(self) -> PlannedSample:
        """The same for another device."""
        assert not isinstance(self.mixed, CopyPasteParameters)  # see `YoloxAugment.not_planned`
        second = None if self.mixed is None else plan_mix_image(self.mixed.mix_image)
        first = plan_collage(self.window)
        return PlannedSample.of(self.window.size, self.instances, first, second, colours=self.colours)


def drop_small(instances: Instances, smallest: float) -> tuple[Instances, bool]:
    """The objects whose shorter side is above `smallest`, and whether the image gets jitter and flip.

    Where there is none: all objects that have an area, and neither jitter nor flip (as published; there, also those
    without area).
    """
    sides = instances.shorter_sides()
    kept = sides > smallest
    changes = bool(kept.any())
    return instances.select(kept if changes else sides > 0), changes


YOLOX_PAPER = YoloxAugment()
YOLOX_OCTOBER_2021 = YoloxAugment(
    affine=RandomAffine(centred=False), keep=None, mix=MixUp(keep=None), hsv=HsvShift(), smallest=1.0
)
