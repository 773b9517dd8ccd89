"""Scale-aware AutoAugment inside boxes (Chen et al. 2021, "Scale-aware Automatic Augmentation"; DAMO-YOLO's settings).

A colour or geometric change is applied where some objects are, and blended in with a Gaussian around each, whose width
depends on the object's size. Images are (H, W, 3) float32 of 0 to 255 here, so that nothing is rounded between
changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from onelook.augment.sampler import ImageSampler
from onelook.types import Sample

Colour = Literal["auto_contrast", "equalize", "solarize_add", "color", "contrast", "brightness", "sharpness"]
Geometry = Literal["hflip", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"]

_FILL = (102, 115, 122)  # of a warped crop, where it has no pixel
_GREY = np.array((0.2989, 0.587, 0.114), np.float32)
_SMOOTH = np.array(((1, 1, 1), (1, 5, 1), (1, 1, 1)), np.float32) / 13


@dataclass(frozen=True)
class Policy:
    """A colour and a geometric change that were searched together, each with its probability and level (0 to 10)."""

    colour: Colour
    colour_probability: float
    colour_level: float
    geometry: Geometry
    geometry_probability: float
    geometry_level: float


# The policies of DAMO-YOLO's code.
POLICIES = (
    Policy("color", 0.4, 2, "translate_x", 0.4, 4),
    Policy("brightness", 0.2, 4, "rotate", 0.4, 2),
    Policy("sharpness", 0.4, 2, "shear_x", 0.2, 6),
    Policy("solarize_add", 0.2, 2, "hflip", 0.5, 1),
    Policy("color", 0.0, 8, "translate_y", 0.2, 8),
)


@dataclass(frozen=True)
class ScaleAwareAutoAugment:
    """Applies a random policy to an image: its two changes, each to a random part of the objects.

    selected: probability of an object to be chosen, divided between small, middle and large ones by
    `colour_shares` and `geometry_shares`.  splits: the two areas that separate these three, and a third one that only
    the Gaussians use, for an image whose shorter side is 800 pixels.  spread: areas of a colour change's Gaussian
    around a small, middle and large object, as factors on the size class's own area (the last on the object's).

    Both probabilities of a policy grow linearly over the training, by whole epochs here and by steps in the official
    code. An image without objects is not changed.
    """

    policies: tuple[Policy, ...] = POLICIES
    selected: float = 0.3
    colour_shares: tuple[float, float, float] = (7.0, 5.0, 1.0)
    geometry_shares: tuple[float, float, float] = (3.0, 3.0, 3.0)
    splits: tuple[float, float, float] = (2048.0, 10240.0, 51200.0)
    spread: tuple[float, float, float] = (6.0, 2.0, 0.4)

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("policies cannot be empty")
        if list(self.splits) != sorted(self.splits) or not self.splits[0] > 0:
            raise ValueError(f"splits are ascending areas above 0, not {self.splits}")

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """The sample with some objects changed, and (where a shift copied them) with more objects."""
        policy = self.policies[int(rng.integers(len(self.policies)))]
        recolours = bool(rng.random() < policy.colour_probability * sampler.progress)
        moves = bool(rng.random() < policy.geometry_probability * sampler.progress)
        opposite = bool(rng.random() < 0.5)
        chosen = rng.random((2, len(sample.boxes)))
        size = (sample.image.shape[0], sample.image.shape[1])
        coloured = np.flatnonzero(recolours & (chosen[0] < self.probabilities(sample.boxes, size, self.colour_shares)))
        moved = np.flatnonzero(moves & (chosen[1] < self.probabilities(sample.boxes, size, self.geometry_shares)))
        if not len(coloured) and not len(moved):
            return sample
        image, boxes, rows = sample.image.astype(np.float32), sample.boxes, np.arange(len(sample.boxes))
        if len(coloured):
            image = self.recolour(image, boxes[coloured], policy.colour, policy.colour_level)
        if len(moved):
            level = -policy.geometry_level if opposite else policy.geometry_level
            image, copies, sources = apply_geometry(image, boxes[moved], policy.geometry, level)
            boxes, rows = np.concatenate((boxes, copies)), np.concatenate((rows, moved[sources]))
        polygons = sample.polygons
        if polygons is not None:
            polygons = (*polygons, *((),) * (len(rows) - len(polygons)))
        image = np.rint(image).clip(0, 255).astype(np.uint8)
        return replace(sample, image=image, boxes=boxes, labels=sample.labels[rows], polygons=polygons)

    def split_areas(self, size: tuple[int, int]) -> np.ndarray:
        """(3,) the area limits `splits`, scaled to an image of this (height, width)."""
        return np.array(self.splits) * (min(size) / 800)

    def probabilities(self, boxes: np.ndarray, size: tuple[int, int], shares: tuple[float, float, float]) -> np.ndarray:
        """(M,) probability of every object to be chosen; 0 where it has no area."""
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        part = np.array(shares) / sum(shares)
        kinds = np.searchsorted(self.split_areas(size)[:2], area, side="right")
        return np.where(area > 0, self.selected * part[kinds], 0.0)

    def recolour(self, image: np.ndarray, boxes: np.ndarray, colour: Colour, level: float) -> np.ndarray:
        """The image with a colour change around these boxes."""
        weight = np.minimum(self.gaussians(boxes, (image.shape[0], image.shape[1])), 1.0)[..., None]
        return image * (1.0 - weight) + COLOURS[colour](image, level) * weight

    def gaussians(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H, W) float32 sum of one Gaussian per box, whose width depends on the box's size class."""
        total = np.zeros(size, np.float32)
        small, middle, large = self.split_areas(size)
        wide, medium, narrow = self.spread
        for box in boxes:
            width, height = (box[2:] - box[:2]).tolist()
            area = width * height
            if area < small:
                factor = wide * small / area
            elif area < middle:
                factor = medium * (small + middle) / 2 / area
            else:
                factor = narrow * large / area if area < large else narrow
            whole = math.sqrt(factor * size[0] * size[1] / (2 * math.pi))
            centre = (float(box[0] + width // 2), float(box[1] + height // 2))
            total += gaussian(size, centre, (width / size[1] * whole, height / size[0] * whole))
        return total


def gaussian(size: tuple[int, int], centre: tuple[float, float], sigma: tuple[float, float]) -> np.ndarray:
    """(H, W) float32, 1 at the centre (x, y), with standard deviations (x, y) in pixels."""
    with np.errstate(over="ignore"):  # thousands of deviations away the value is 0
        across, down = (
            np.exp(-0.5 * ((np.arange(side, dtype=np.float32) - middle) / deviation) ** 2)
            for side, middle, deviation in zip(size[::-1], centre, sigma)
        )
    return down[:, None] * across


# --- Colours: (H, W, 3) float32 of 0..255, whole image -------------------------------------------------------------


def _blend_level(image: np.ndarray, other: np.ndarray | float, level: float) -> np.ndarray:
    """Blends an image with another: level 0 is 90 % the other, level 5 this one alone, above 5 it extrapolates."""
    factor = 0.18 * level + 0.1
    return (factor * image + (1.0 - factor) * other).clip(0, 255)


def _grey(image: np.ndarray) -> np.ndarray:
    return (image @ _GREY)[..., None]


def _auto_contrast(image: np.ndarray, level: float) -> np.ndarray:
    low, high = image.min((0, 1)), image.max((0, 1))
    span = np.where(high > low, high - low, 255.0)
    return (image - np.where(high > low, low, 0.0)) * (255.0 / span)


def _equalize(image: np.ndarray, level: float) -> np.ndarray:
    """Equalizes every channel's histogram, with the rounding of Pillow's `ImageOps.equalize`."""
    channels = []
    for channel in image.astype(np.uint8).transpose(2, 0, 1):
        counts = np.bincount(channel.ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        below = np.concatenate(([0], np.cumsum(counts)[:-1]))
        table = np.minimum((below + step // 2) // step, 255) if step else np.arange(256)
        channels.append(table[channel])
    return np.stack(channels, 2).astype(np.float32)


def _solarize_add(image: np.ndarray, level: float) -> np.ndarray:
    return np.where(image <= 127.5, (image + 255 * 0.04296875 * level).clip(0, 255), image)


def _smoothed(image: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, -1, _SMOOTH, borderType=cv2.BORDER_REFLECT_101)


COLOURS: dict[Colour, Callable[[np.ndarray, float], np.ndarray]] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "solarize_add": _solarize_add,
    "color": lambda image, level: _blend_level(image, _grey(image), level),
    "contrast": lambda image, level: _blend_level(image, float(_grey(image).mean()), level),
    "brightness": lambda image, level: _blend_level(image, 0.0, level),
    "sharpness": lambda image, level: _blend_level(image, _smoothed(image), level),
}


# --- Geometry: inside one box --------------------------------------------------------------------------------------


def apply_geometry(
    image: np.ndarray, boxes: np.ndarray, geometry: Geometry, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Applies a geometric change inside each of these boxes.

    Returns the image, the boxes of copied objects, and the rows of `boxes` that they are copies of.

    The new pixels of a box come from the unchanged image, even where another box was changed before. A level below 0
    rotates, shears or shifts the other way. A shift leaves the object where it is and puts a copy beside it; a copy
    that would be wholly outside is not made. The pixels shift by whole steps and are clipped at the border; the copy's
    box shifts only so far that it stays inside (as published: the two differ by a few pixels there).
    """
    changed = image.copy()
    if geometry in ("translate_x", "translate_y"):
        axis, shift = ("translate_x", "translate_y").index(geometry), round(12 * level)
        made = [row for row, box in enumerate(boxes) if _paste_copy(changed, image, box, axis, shift)]
        return changed, _shifted(boxes[made], axis, shift, image.shape[1 - axis]), np.array(made, np.int64)
    for box in boxes:
        left, top, right, bottom = _rectangle(box, image)
        if left < right and top < bottom:
            crop = image[top:bottom, left:right]
            _blend(changed, _warp_crop(crop, geometry, level), left, top)
    return changed, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def _rectangle(box: np.ndarray, image: np.ndarray) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box.tolist()
    return max(int(x1), 0), max(int(y1), 0), min(int(x2), image.shape[1]), min(int(y2), image.shape[0])


def _paste_copy(changed: np.ndarray, image: np.ndarray, box: np.ndarray, axis: int, shift: int) -> bool:
    rectangle = _rectangle(box, image)
    low, high = rectangle[axis] + shift, rectangle[axis + 2] + shift
    low, high = max(low, 0), min(high, image.shape[1 - axis])
    if low >= high or rectangle[0] >= rectangle[2] or rectangle[1] >= rectangle[3]:
        return False
    source = list(rectangle)
    source[axis], source[axis + 2] = low - shift, high - shift
    left, top = (low, source[1]) if axis == 0 else (source[0], low)
    _blend(changed, image[source[1] : source[3], source[0] : source[2]], left, top)
    return True


def _shifted(boxes: np.ndarray, axis: int, shift: int, side: int) -> np.ndarray:
    """The boxes moved along an axis, less far where they would leave the image."""
    offset = np.clip(shift, -boxes[:, axis], side - boxes[:, axis + 2])
    moved = boxes.copy()
    moved[:, axis::2] += offset[:, None]
    return moved


def _blend(image: np.ndarray, crop: np.ndarray, left: int, top: int) -> None:
    """Blends a crop into the image: fully in its middle, and fading out towards its border."""
    height, width = crop.shape[:2]
    sigma = math.sqrt(height * width / (2 * math.pi))
    weight = gaussian((height, width), (width // 2, height // 2), (sigma, sigma))[..., None]
    place = image[top : top + height, left : left + width]
    place[:] = place * (1.0 - weight) + crop * weight


def _warp_crop(crop: np.ndarray, geometry: Geometry, level: float) -> np.ndarray:
    """A crop flipped, rotated by 3 degrees per level or sheared by 1.5, about its middle, in its own rectangle."""
    if geometry == "hflip":
        return crop[:, ::-1]
    angle = math.radians(3.0 * level if geometry == "rotate" else 1.5 * level)
    if geometry == "rotate":
        back = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    else:
        back = np.eye(2)
        back[(0, 1) if geometry == "shear_x" else (1, 0)] = math.tan(angle)
    return _warp_by_inverse(crop, back)


def _warp_by_inverse(crop: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Warps a crop by the inverse matrix `back` (2, 2) about its middle, bilinearly; grey where nothing is found.

    Values are truncated to whole numbers, as in the 8-bit images of the published code.
    """
    height, width = crop.shape[:2]
    x, y = np.arange(width) + 0.5 - width / 2, np.arange(height)[:, None] + 0.5 - height / 2
    from_x, from_y = (a * x + b * y + middle for (a, b), middle in zip(back, (width / 2, height / 2)))
    maps = [(at - 0.5).astype(np.float32) for at in (from_x, from_y)]
    found = cv2.remap(np.floor(crop), maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    outside = (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)
    found = np.floor(found + 1e-3)
    found[outside] = _FILL
    return found
