"""Copy-paste (Ghiasi et al. 2021; YOLOX table 5): objects of another image, cut out along their outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.colour import to_rgb
from onelook.augment.letterbox import Letterbox
from onelook.augment.geometry import BoxFilter, flip_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.mix_image import MixImage, sample_mix_image
from onelook.augment.lazy_sample import ImageSampler

_FRACTION = 4  # bits of a sub-pixel position


@dataclass(frozen=True)
class CopyPaste:
    """Pastes a random part of another image's objects over the picture.

    probability: of doing it at all.  scale: (smallest, largest) factor of the second image.  part: probability of each
    of its objects to come along.  keep: which of them survive the cut.  visible: objects of the picture of which less
    than this part can still be seen are dropped; the others get the box and the outline of what is left.

    Objects without an outline are not pasted; a data set without masks makes this do nothing. The outlines of one
    object are taken together (COCO's parts of an occluded object).
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.5, 1.5)
    part: float = 0.5
    keep: BoxFilter = BoxFilter(side=5.0)
    visible: float = 0.1
    frame: Letterbox = Letterbox()

    def draw(self, draw: ImageSampler, rng: np.random.Generator) -> CopyPasteParameters | None:
        """What to paste; None for nothing."""
        if rng.random() >= self.probability:
            return None
        partner = sample_mix_image(self.frame, self.scale, draw, rng)
        if partner is None or partner.sample.polygons is None:
            return None
        chosen = rng.random(len(partner.sample.boxes)) < self.part
        outlined = np.array([len(rings) > 0 for rings in partner.sample.polygons], bool)
        objects = partner.objects()
        inside = objects.clipped(partner.size)
        pasted = inside.rows(chosen & outlined & self.keep(objects.boxes, inside.boxes))
        return CopyPasteParameters(partner, pasted, self.visible) if len(pasted) else None


@dataclass(frozen=True, eq=False)
class CopyPasteParameters:
    """One drawn copy-paste: a partner, and those of its objects that are pasted, clipped to the picture."""

    partner: MixImage
    pasted: Instances
    visible: float

    def flipped(self) -> CopyPasteParameters:
        """The same in the flipped picture."""
        return CopyPasteParameters(
            self.partner.flipped(), self.pasted.moved(flip_matrix(self.partner.size[1])), self.visible
        )

    def mask(self) -> np.ndarray:
        """(H, W) uint8, 255 where something is pasted."""
        whole, mask = np.zeros((2, *self.partner.size), np.uint8)
        for rings in self.pasted.polygons or ():
            fill_polygons(whole, rings)
        x1, y1, x2, y2 = self.partner.window()
        mask[y1:y2, x1:x2] = whole[y1:y2, x1:x2]
        return mask

    def objects(self, objects: Instances) -> Instances:
        """What can still be seen of the objects, and then the pasted ones."""
        return concatenate([remove_covered(objects, self.mask(), self.visible), self.pasted])

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3 or 4) -> (H, W, 3) with the objects pasted over it."""
        picture = to_rgb(image)
        x1, y1, x2, y2 = self.partner.window()
        if x1 < x2 and y1 < y2:
            part = np.ascontiguousarray(self.partner.visible())
            cv2.copyTo(part, self.mask()[y1:y2, x1:x2], picture[y1:y2, x1:x2])
        return picture


def fill_polygons(mask: np.ndarray, rings: tuple[np.ndarray, ...], left: int = 0, top: int = 0) -> None:
    """Sets the pixels inside an object's outlines to 255; the mask's corner lies at (left, top)."""
    for ring in rings:
        points = np.round((ring - (left + 0.5, top + 0.5)) * (1 << _FRACTION)).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_8, _FRACTION)


def remove_covered(objects: Instances, mask: np.ndarray, visible: float) -> Instances:
    """The objects with what `mask` (H, W) covers taken away: dropped below `visible`, else cut to what is seen."""
    boxes, polygons = objects.boxes.copy(), list(objects.polygons or ((),) * len(objects.boxes))
    kept = np.ones(len(boxes), bool)
    for row, box in enumerate(objects.boxes):
        left, top = np.floor(box[:2]).astype(int).tolist()
        right, bottom = np.ceil(box[2:]).astype(int).tolist()
        cover = mask[top:bottom, left:right]
        if not cover.size or not cv2.countNonZero(cover):
            continue
        own = np.zeros_like(cover)
        fill_polygons(own, polygons[row], left, top)
        if not polygons[row]:
            own[:] = 255
        seen = cv2.bitwise_and(own, cv2.bitwise_not(cover))
        whole, rest = cv2.countNonZero(own), cv2.countNonZero(seen)
        if rest == whole:
            continue
        kept[row] = rest > 0 and rest >= visible * whole
        if not kept[row]:
            continue
        x, y, width, height = cv2.boundingRect(seen)
        extent = np.array([left + x, top + y, left + x + width, top + y + height], float)
        boxes[row, :2], boxes[row, 2:] = np.maximum(box[:2], extent[:2]), np.minimum(box[2:], extent[2:])
        if polygons[row]:
            polygons[row] = _outlines(seen, left, top)
    known = None if objects.polygons is None else tuple(polygons)
    return Instances(boxes, objects.labels, known).rows(kept)


def _outlines(mask: np.ndarray, left: int, top: int) -> tuple[np.ndarray, ...]:
    """The outer outlines of a mask, through the centres of its border pixels."""
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return tuple((ring[:, 0] + (left + 0.5, top + 0.5)).astype(np.float32) for ring in found if len(ring) > 2)
