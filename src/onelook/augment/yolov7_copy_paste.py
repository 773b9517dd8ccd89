"""YOLOv7's copy-paste ("paste_in" in its code): objects of other images, pasted into free places of this one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import to_rgb
from onelook.augment.copy_paste import fill_polygons
from onelook.augment.geometry import Polygons, scale_matrix, transform_points, transform_polygons, translation_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.mosaic import Mosaic
from onelook.augment.sampler import ImageSampler

_MOSAICS = 100  # searched for objects at most
_SMALLEST_SLOT, _SMALLEST_SIDE, _FEWEST_PIXELS = 20, 10, 20
_SLOTS = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6


@dataclass(frozen=True, eq=False)
class ObjectCrop:
    """An object of another image: its layer, polygons, box (whole pixels) and label, on a mosaic's canvas."""

    layer: Layer
    rings: tuple[np.ndarray, ...]
    box: tuple[int, int, int, int]
    label: int


@dataclass(frozen=True, eq=False)
class PastedObject:
    """An `ObjectCrop` resized into its place.

    layer, rings, mask: the layer, the polygons and the mask (H, W; 255 inside) in pixels of the place.  left, top: the
    place's corner in the image.
    """

    layer: Layer
    rings: tuple[np.ndarray, ...]
    left: int
    top: int
    mask: np.ndarray
    label: int

    @property
    def box(self) -> np.ndarray:
        """(4,) xyxy pixels of the image."""
        height, width = self.mask.shape
        return np.array((self.left, self.top, self.left + width, self.top + height), float)


@dataclass(frozen=True)
class Yolov7CopyPaste:
    """Pastes objects of other images into places that are (nearly) free (YOLOv7's code).

    probability: of doing it at all.  pool: number of objects collected to choose from.  part: of the objects of each
    mosaic that they are collected from.  slots: for each try, the longest sides of a place, as a part of the image's.
    skip: probability to leave a try out.  overlap: a place covers less than this part of every object.

    from_boxes: objects without polygons are pasted as their boxes, with what is around them; otherwise they are not
    pasted, so that this does nothing with a data set without masks.  balance_classes: one image of each mosaic is drawn
    by class, and what is pasted as well, each class equally often: rare ones are pasted as often as others.

    Pasted pixels get no colour jitter.
    """

    probability: float = 0.15
    pool: int = 30
    part: float = 0.5
    slots: tuple[float, ...] = _SLOTS
    skip: float = 0.2
    overlap: float = 0.3
    layout: Mosaic = Mosaic()
    from_boxes: bool = False
    balance_classes: bool = False

    def sample_parameters(
        self, instances: Instances, sampler: ImageSampler, rng: np.random.Generator
    ) -> tuple[PastedObject, ...]:
        """What to paste into an image with these objects; no pixel is read."""
        if rng.random() >= self.probability:
            return ()
        crops = self._collect(sampler, rng)
        taken, found = instances.boxes, []
        for fraction in self.slots if crops else ():
            if rng.random() < self.skip:
                continue
            slot = _sample_slot(fraction, sampler.size, rng)
            if slot is None or (_covered_parts(slot, taken) >= self.overlap).any():
                continue
            pasted = _fit_into_slot(self._choose(crops, rng), slot)
            if pasted is not None:
                found.append(pasted)
                taken = np.concatenate((taken, pasted.box[None]))
        return tuple(found)

    def _choose(self, crops: list[ObjectCrop], rng: np.random.Generator) -> ObjectCrop:
        if self.balance_classes:
            labels = sorted({crop.label for crop in crops})
            label = labels[int(rng.integers(len(labels)))]
            crops = [crop for crop in crops if crop.label == label]
        return crops[int(rng.integers(len(crops)))]

    def _collect(self, sampler: ImageSampler, rng: np.random.Generator) -> list[ObjectCrop]:
        """Objects of random mosaics, until there are enough; none where the first mosaic has none."""
        found: list[ObjectCrop] = []
        for _ in range(_MOSAICS):
            first = sampler.balanced(rng)[1] if self.balance_classes else sampler(rng)
            samples, meeting = self.layout.sample_parameters(first, sampler, rng)
            tiles = self.layout.tiles(samples, meeting, sampler.size)
            canvas = (2 * sampler.size[0], 2 * sampler.size[1])
            inside = ((layer, instances.clipped(canvas)) for layer, instances in tiles)
            if self.from_boxes:
                inside = ((layer, instances.with_box_polygons()) for layer, instances in inside)
            own = [crop for layer, instances in inside for crop in _object_crops(layer, instances)]
            chosen = rng.permutation(len(own))[: round(self.part * len(own))]
            found += [own[row] for row in chosen.tolist()]
            if not found or len(found) >= self.pool:
                break
        return found

    @staticmethod
    def add_instances(instances: Instances, pasted: tuple[PastedObject, ...]) -> Instances:
        """The image's objects, then the pasted ones."""
        if not pasted:
            return instances
        rings: Polygons = tuple(
            tuple(
                transform_points(ring, translation_matrix(one.left, one.top)).astype(np.float32) for ring in one.rings
            )
            for one in pasted
        )
        boxes = np.stack([one.box for one in pasted])
        return concatenate([instances, Instances(boxes, np.array([one.label for one in pasted], np.int64), rings)])

    @staticmethod
    def apply(image: np.ndarray, pasted: tuple[PastedObject, ...]) -> np.ndarray:
        """The (H, W, 3) image with the objects pasted over it; the array is changed in place."""
        for one in pasted:
            height, width = one.mask.shape
            none = Instances(np.zeros((0, 4)), np.zeros(0, np.int64))
            part = to_rgb(Collage((height, width), (one.layer,), none).render())
            cv2.copyTo(part, one.mask, image[one.top : one.top + height, one.left : one.left + width])
        return image


def _object_crops(layer: Layer | None, instances: Instances) -> list[ObjectCrop]:
    """The objects of a tile that have polygons, and an area on the canvas."""
    if layer is None or instances.polygons is None:
        return []
    found = []
    for box, label, rings in zip(instances.boxes.astype(int).tolist(), instances.labels.tolist(), instances.polygons):
        if rings and box[0] < box[2] and box[1] < box[3]:
            found.append(ObjectCrop(layer, rings, tuple(box), label))
    return found


def _sample_slot(fraction: float, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """A random place (x1, y1, x2, y2) in an image of `size`; None where it is too small for any object."""
    sides = [int(rng.integers(1, max(int(side * fraction), 1) + 1)) for side in size]
    y, x = (max(0, int(rng.integers(0, side + 1)) - own // 2) for side, own in zip(size, sides))
    slot = (x, y, min(x + sides[1], size[1]), min(y + sides[0], size[0]))
    return slot if min(slot[2] - slot[0], slot[3] - slot[1]) > _SMALLEST_SLOT else None


def _covered_parts(slot: tuple[int, int, int, int], boxes: np.ndarray) -> np.ndarray:
    """(M,) the part of every box that lies in the slot."""
    low, high = np.maximum(boxes[:, :2], slot[:2]), np.minimum(boxes[:, 2:], slot[2:])
    common = np.clip(high - low, 0, None).prod(1)
    return common / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-16)


def _fit_into_slot(crop: ObjectCrop, slot: tuple[int, int, int, int]) -> PastedObject | None:
    """The object as large as fits into the slot, at its corner; None where it would have too few pixels."""
    x1, y1, x2, y2 = crop.box
    ratio = min((slot[2] - slot[0]) / (x2 - x1), (slot[3] - slot[1]) / (y2 - y1))
    width, height = int((x2 - x1) * ratio), int((y2 - y1) * ratio)
    if min(width, height) <= _SMALLEST_SIDE:
        return None
    matrix = scale_matrix(width / (x2 - x1), height / (y2 - y1)) @ translation_matrix(-x1, -y1)
    moved = transform_polygons((crop.rings,), matrix)
    assert moved is not None  # there were rings
    mask = np.zeros((height, width), np.uint8)
    fill_polygons(mask, moved[0])
    if cv2.countNonZero(mask) <= _FEWEST_PIXELS:
        return None
    layer = replace(crop.layer, matrix=matrix @ crop.layer.matrix)
    return PastedObject(layer, moved[0], slot[0], slot[1], mask, crop.label)
