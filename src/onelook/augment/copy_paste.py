"""Copy-paste (Ghiasi et al. 2021; YOLOX table 5): objects of another image, cut out along their polygons.

YOLOv7's own form, which pastes into free places, is in `yolov7_copy_paste.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.colour import to_rgb
from onelook.augment.geometry import BoxFilter, flip_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.letterbox import Letterbox
from onelook.augment.mix_image import MixImage, sample_mix_image
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample

_FRACTION = 4  # bits of a sub-pixel position


@dataclass(frozen=True)
class CopyPaste:
    """Pastes a random part of another image's objects over the image (Ghiasi et al. 2021).

    probability: of doing it at all.  scale: (smallest, largest) factor of the second image.  part: probability of each
    of its objects to be pasted.  keep: which of them survive the clipping.  visible: objects of the first image of
    which less than this part remains visible are dropped; the others get the box and the polygons of what remains.

    from_boxes: objects without polygons are pasted as their boxes, with what is around them; otherwise they are not
    pasted, so that this does nothing with a data set without masks.  balance_classes: the second image is drawn by
    class, each equally often, and its objects of that class are always pasted: rare classes appear as often as others.

    The polygons of one object are taken together (COCO's parts of an occluded object).
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.5, 1.5)
    part: float = 0.5
    keep: BoxFilter = BoxFilter(side=5.0)
    visible: float = 0.1
    frame: Letterbox = Letterbox()
    from_boxes: bool = False
    balance_classes: bool = False

    def sample_parameters(self, sampler: ImageSampler, rng: np.random.Generator) -> CopyPasteParameters | None:
        """What to paste; None for nothing."""
        if rng.random() >= self.probability:
            return None
        label, draw = -1, sampler
        if self.balance_classes:
            label, sample = sampler.balanced(rng)
            draw = _FirstSample(sample, sampler)
        mix_image = sample_mix_image(self.frame, self.scale, draw, rng)
        if mix_image is None or (mix_image.sample.polygons is None and not self.from_boxes):
            return None
        chosen = rng.random(len(mix_image.sample.boxes)) < self.part
        chosen |= mix_image.sample.labels == label
        instances = mix_image.instances()
        if self.from_boxes:
            instances = instances.with_box_polygons()
        has_polygons = np.array([len(rings) > 0 for rings in instances.polygons or ()], bool)
        inside = instances.clipped(mix_image.size)
        pasted = inside.select(chosen & has_polygons & self.keep(instances.boxes, inside.boxes))
        return CopyPasteParameters(mix_image, pasted, self.visible) if len(pasted) else None


@dataclass(frozen=True, eq=False)
class _FirstSample:
    """An `ImageSampler` that returns one sample."""

    sample: Sample
    sampler: ImageSampler

    @property
    def size(self) -> tuple[int, int]:
        return self.sampler.size

    @property
    def progress(self) -> float:
        return self.sampler.progress

    def __call__(self, rng: np.random.Generator) -> Sample:
        return self.sample

    def balanced(self, rng: np.random.Generator) -> tuple[int, Sample]:
        return self.sampler.balanced(rng)


@dataclass(frozen=True, eq=False)
class CopyPasteParameters:
    """The random parameters of one copy-paste: the second image, and those of its objects that are pasted, clipped."""

    mix_image: MixImage
    pasted: Instances
    visible: float

    def flipped(self) -> CopyPasteParameters:
        """The same copy-paste for the horizontally flipped image."""
        flip = flip_matrix(self.mix_image.size[1])
        return CopyPasteParameters(self.mix_image.flipped(), self.pasted.transformed(flip), self.visible)

    def mask(self) -> np.ndarray:
        """(H, W) uint8, 255 where something is pasted."""
        whole, mask = np.zeros((2, *self.mix_image.size), np.uint8)
        for rings in self.pasted.polygons or ():
            fill_polygons(whole, rings)
        x1, y1, x2, y2 = self.mix_image.visible_rectangle()
        mask[y1:y2, x1:x2] = whole[y1:y2, x1:x2]
        return mask

    def add_instances(self, instances: Instances) -> Instances:
        """What remains visible of the first image's objects, then the pasted ones."""
        return concatenate([remove_occluded(instances, self.mask(), self.visible), self.pasted])

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3 or 4) -> (H, W, 3) with the objects pasted over it."""
        image = to_rgb(image)
        x1, y1, x2, y2 = self.mix_image.visible_rectangle()
        if x1 < x2 and y1 < y2:
            part = np.ascontiguousarray(self.mix_image.visible_pixels())
            cv2.copyTo(part, self.mask()[y1:y2, x1:x2], image[y1:y2, x1:x2])
        return image


def fill_polygons(mask: np.ndarray, rings: tuple[np.ndarray, ...], left: int = 0, top: int = 0) -> None:
    """Sets the pixels inside an object's polygons to 255; the mask's corner lies at (left, top)."""
    for ring in rings:
        points = np.round((ring - (left + 0.5, top + 0.5)) * (1 << _FRACTION)).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_8, _FRACTION)


def remove_occluded(instances: Instances, mask: np.ndarray, visible: float) -> Instances:
    """The objects without what `mask` (H, W) covers: dropped where less than the part `visible` remains, else cut."""
    boxes, polygons = instances.boxes.copy(), list(instances.polygons or ((),) * len(instances.boxes))
    kept = np.ones(len(boxes), bool)
    for row, box in enumerate(instances.boxes):
        left, top = np.floor(box[:2]).astype(int).tolist()
        right, bottom = np.ceil(box[2:]).astype(int).tolist()
        cover = mask[top:bottom, left:right]
        if not cover.size or not cv2.countNonZero(cover):
            continue
        own = np.zeros_like(cover)
        fill_polygons(own, polygons[row], left, top)
        if not polygons[row]:
            own[:] = 255
        remaining = cv2.bitwise_and(own, cv2.bitwise_not(cover))
        whole, rest = cv2.countNonZero(own), cv2.countNonZero(remaining)
        if rest == whole:
            continue
        kept[row] = rest > 0 and rest >= visible * whole
        if not kept[row]:
            continue
        x, y, width, height = cv2.boundingRect(remaining)
        extent = np.array([left + x, top + y, left + x + width, top + y + height], float)
        boxes[row, :2], boxes[row, 2:] = np.maximum(box[:2], extent[:2]), np.minimum(box[2:], extent[2:])
        if polygons[row]:
            polygons[row] = _mask_to_polygons(remaining, left, top)
    known = None if instances.polygons is None else tuple(polygons)
    return Instances(boxes, instances.labels, known).select(kept)


def _mask_to_polygons(mask: np.ndarray, left: int, top: int) -> tuple[np.ndarray, ...]:
    """The outer polygons of a mask, through the centres of its border pixels."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return tuple((ring[:, 0] + (left + 0.5, top + 0.5)).astype(np.float32) for ring in found if len(ring) > 2)
