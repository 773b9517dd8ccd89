"""Paste-in: objects of other pictures, cut out along their outlines, on free places of this one (YOLOv7's code)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from onelook.augment.collage import Collage, Layer
from onelook.augment.colour import to_rgb
from onelook.augment.copy_paste import fill_polygons
from onelook.augment.geometry import Polygons, transform_points, transform_polygons, translation_matrix, scale_matrix
from onelook.augment.mosaic import Mosaic
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import ImageSampler

_MOSAICS = 100  # looked through for objects at most
_SMALLEST_SLOT, _SMALLEST_SIDE, _FEWEST_PIXELS = 20, 10, 20
_SLOTS = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6


@dataclass(frozen=True, eq=False)
class ObjectCrop:
    """An object of another picture: its layer, its outlines, its box (whole pixels) and label, on a mosaic's canvas."""

    layer: Layer
    rings: tuple[np.ndarray, ...]
    box: tuple[int, int, int, int]
    label: int


@dataclass(frozen=True, eq=False)
class PastedObject:
    """A cutout in its place: layer, rings and mask (H, W; 255 inside) in pixels of the place, whose corner is at (left,
    top) of the picture."""

    layer: Layer
    rings: tuple[np.ndarray, ...]
    left: int
    top: int
    mask: np.ndarray
    label: int

    @property
    def box(self) -> np.ndarray:
        """(4,) xyxy pixels of the picture."""
        height, width = self.mask.shape
        return np.array((self.left, self.top, self.left + width, self.top + height), float)


@dataclass(frozen=True)
class Yolov7CopyPaste:
    """Pastes objects of other images into places that are (nearly) free.

    probability: of doing it at all.  pool: objects collected to choose from.  part: of the objects of each mosaic that
    they are collected from.  slots: for each try, the longest sides of a place, as a part of the picture's.  skip:
    probability to leave a try out.  overlap: a place covers less than this part of every object.

    Objects without an outline are not pasted; a data set without masks makes this do nothing. What is pasted is not
    jittered in colour.
    """

    probability: float = 0.15
    pool: int = 30
    part: float = 0.5
    slots: tuple[float, ...] = _SLOTS
    skip: float = 0.2
    overlap: float = 0.3
    layout: Mosaic = Mosaic()

    def draw(self, objects: Instances, draw: ImageSampler, rng: np.random.Generator) -> tuple[PastedObject, ...]:
        """What to paste into a picture with these objects; nothing is read."""
        if rng.random() >= self.probability:
            return ()
        cutouts = self._collect(draw, rng)
        taken, found = objects.boxes, []
        for fraction in self.slots if cutouts else ():
            if rng.random() < self.skip:
                continue
            slot = _slot(fraction, draw.size, rng)
            if slot is None or (_covered(slot, taken) >= self.overlap).any():
                continue
            pasting = _place(cutouts[int(rng.integers(len(cutouts)))], slot)
            if pasting is not None:
                found.append(pasting)
                taken = np.concatenate((taken, pasting.box[None]))
        return tuple(found)

    def _collect(self, draw: ImageSampler, rng: np.random.Generator) -> list[ObjectCrop]:
        """Objects of mosaics, until there are enough; none where the first mosaic has none."""
        found: list[ObjectCrop] = []
        for _ in range(_MOSAICS):
            samples, meeting = self.layout.draw(draw(rng), draw, rng)
            tiles = self.layout.tiles(samples, meeting, draw.size)
            canvas = (2 * draw.size[0], 2 * draw.size[1])
            own = [cutout for layer, objects in tiles for cutout in _cutouts(layer, objects.clipped(canvas))]
            chosen = rng.permutation(len(own))[: round(self.part * len(own))]
            found += [own[row] for row in chosen.tolist()]
            if not found or len(found) >= self.pool:
                break
        return found

    @staticmethod
    def objects(objects: Instances, pastings: tuple[PastedObject, ...]) -> Instances:
        """The picture's objects, and then the pasted ones."""
        if not pastings:
            return objects
        rings: Polygons = tuple(
            tuple(
                transform_points(ring, translation_matrix(pasting.left, pasting.top)).astype(np.float32)
                for ring in pasting.rings
            )
            for pasting in pastings
        )
        boxes = np.stack([pasting.box for pasting in pastings])
        return concatenate(
            [objects, Instances(boxes, np.array([pasting.label for pasting in pastings], np.int64), rings)]
        )

    @staticmethod
    def pixels(image: np.ndarray, pastings: tuple[PastedObject, ...]) -> np.ndarray:
        """The (H, W, 3) picture with them pasted over it, in its own memory."""
        for pasting in pastings:
            height, width = pasting.mask.shape
            none = Instances(np.zeros((0, 4)), np.zeros(0, np.int64))
            part = to_rgb(Collage((height, width), (pasting.layer,), none).render())
            place = image[pasting.top : pasting.top + height, pasting.left : pasting.left + width]
            cv2.copyTo(part, pasting.mask, place)
        return image


def _cutouts(layer: Layer | None, objects: Instances) -> list[ObjectCrop]:
    """The outlined objects of a tile that have an area on the canvas."""
    if layer is None or objects.polygons is None:
        return []
    found = []
    for box, label, rings in zip(objects.boxes.astype(int).tolist(), objects.labels.tolist(), objects.polygons):
        if rings and box[0] < box[2] and box[1] < box[3]:
            found.append(ObjectCrop(layer, rings, tuple(box), label))
    return found


def _slot(fraction: float, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """A random place (x1, y1, x2, y2) in a picture of `size`; None where it is too small for anything."""
    sides = [int(rng.integers(1, max(int(side * fraction), 1) + 1)) for side in size]
    y, x = (max(0, int(rng.integers(0, side + 1)) - own // 2) for side, own in zip(size, sides))
    slot = (x, y, min(x + sides[1], size[1]), min(y + sides[0], size[0]))
    return slot if min(slot[2] - slot[0], slot[3] - slot[1]) > _SMALLEST_SLOT else None


def _covered(slot: tuple[int, int, int, int], boxes: np.ndarray) -> np.ndarray:
    """(M,) the part of every box that lies in the place."""
    low, high = np.maximum(boxes[:, :2], slot[:2]), np.minimum(boxes[:, 2:], slot[2:])
    common = np.clip(high - low, 0, None).prod(1)
    return common / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-16)


def _place(cutout: ObjectCrop, slot: tuple[int, int, int, int]) -> PastedObject | None:
    """The cutout as large as fits into the place, at its corner; None where that is too small to be seen."""
    x1, y1, x2, y2 = cutout.box
    ratio = min((slot[2] - slot[0]) / (x2 - x1), (slot[3] - slot[1]) / (y2 - y1))
    width, height = int((x2 - x1) * ratio), int((y2 - y1) * ratio)
    if min(width, height) <= _SMALLEST_SIDE:
        return None
    matrix = scale_matrix(width / (x2 - x1), height / (y2 - y1)) @ translation_matrix(-x1, -y1)
    moved = transform_polygons((cutout.rings,), matrix)
    assert moved is not None  # there were rings
    mask = np.zeros((height, width), np.uint8)
    fill_polygons(mask, moved[0])
    if cv2.countNonZero(mask) <= _FEWEST_PIXELS:
        return None
    layer = replace(cutout.layer, matrix=matrix @ cutout.layer.matrix)
    return PastedObject(layer, moved[0], slot[0], slot[1], mask, cutout.label)
