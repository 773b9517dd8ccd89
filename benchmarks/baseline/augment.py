"""YOLOX's augmentation step by step, as published: the reference for results and speed of `onelook.augment`.

Every image is decoded whole, resized, pasted on a canvas of twice the input's size, and the canvas is warped; MixUp
blends in float32; the sample ends as float32 in channel-first order. The random parameters come from the same
functions in the same order, so that the samples of both can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from onelook.augment.colour import Hsv, HsvChange, HsvGain, HsvScale
from onelook.augment.geometry import BoxFilter
from onelook.augment.mix_image import MixImage
from onelook.augment.mixup import MixUpParameters
from onelook.augment.sampler import ImageSampler
from onelook.augment.yolox import YoloxAugment
from onelook.types import Sample

FILL = 114
Annotated = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, boxes, labels


@dataclass(frozen=True)
class Textbook:
    """The steps of `settings`, one after the other."""

    settings: YoloxAugment

    def __call__(
        self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) float32 pixels, (M, 5) float32 rows of label and xyxy box."""
        settings, (height, width) = self.settings, sampler.size
        if rng.random() >= settings.mosaic:
            return self.finish(loaded(sample, sampler.size), *self._jitter(rng), sampler.size)
        samples, meeting = settings.layout.sample_parameters(sample, sampler, rng)
        canvas, boxes, labels = mosaic(samples, meeting, sampler.size)
        matrix, scale = settings.affine.sample_parameters(rng, canvas.shape[:2], sampler.size)
        first = cv2.warpAffine(canvas, matrix[:2], (width, height), borderValue=(FILL, FILL, FILL))
        moved = clip(hulls(boxes, matrix), sampler.size)
        if settings.keep is not None:
            kept = settings.keep(boxes * scale, moved)
            moved, labels = moved[kept], labels[kept]
        if settings.mix is not None and len(moved):
            blend = settings.mix.sample_parameters(sampler, rng)
            if isinstance(blend, MixUpParameters):
                first, moved, labels = mixup(first, moved, labels, blend, settings.mix.keep)
        return self.finish((first, moved, labels), *self._jitter(rng), sampler.size)

    def _jitter(self, rng: np.random.Generator) -> tuple[HsvChange | None, bool]:
        return self.settings.hsv.sample_parameters(rng) if self.settings.hsv else None, bool(
            rng.random() < self.settings.flip
        )

    def finish(
        self, found: Annotated, steps: HsvChange | None, flips: bool, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colour, flip, letterbox, boxes that are large enough."""
        image, boxes, labels = found
        if not len(boxes):
            return tensor(letterbox(image, size)[0]), np.zeros((0, 5), np.float32)
        original, original_boxes = image.copy(), boxes.copy()
        if steps is not None:
            image = hsv(image, self.settings.hsv, steps)
        if flips:
            image = image[:, ::-1]
            boxes = np.stack((image.shape[1] - boxes[:, 2], boxes[:, 1], image.shape[1] - boxes[:, 0], boxes[:, 3]), 1)
        image, ratio = letterbox(image, size)
        boxes = boxes * ratio
        kept = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) > self.settings.smallest
        if not kept.any():
            image, ratio = letterbox(original, size)
            boxes = original_boxes * ratio
            kept = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) > 0
        return tensor(image), np.column_stack((labels[kept], boxes[kept])).astype(np.float32)


def loaded(sample: Sample, size: tuple[int, int]) -> Annotated:
    """The image resized to fit the input, and its boxes."""
    image = sample.image
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    sides = (int(image.shape[1] * ratio), int(image.shape[0] * ratio))
    return cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR), sample.boxes * ratio, sample.labels


def mosaic(samples: tuple[Sample, ...], meeting: tuple[int, int], size: tuple[int, int]) -> Annotated:
    """Four images on a canvas of twice the size; all boxes, clipped to it."""
    canvas = np.full((2 * size[0], 2 * size[1], 3), FILL, np.uint8)
    every_box, every_label = [], []
    for tile, sample in enumerate(samples):
        image, boxes, labels = loaded(sample, size)
        height, width = image.shape[:2]
        left = meeting[0] - (width if tile in (0, 2) else 0)
        top = meeting[1] - (height if tile in (0, 1) else 0)
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        every_box.append(boxes + np.array([left, top, left, top]))
        every_label.append(labels)
    return canvas, clip(np.concatenate(every_box), canvas.shape[:2]), np.concatenate(every_label)


def mixup(
    first: np.ndarray, boxes: np.ndarray, labels: np.ndarray, blend: MixUpParameters, keep: BoxFilter | None
) -> Annotated:
    """Half of the image, half of another image on its own canvas; the objects of both."""
    mix_image: MixImage = blend.mix_image
    height, width = mix_image.size
    x1, y1, x2, y2 = mix_image.letterbox
    jittered_width, jittered_height, left, top = x2 - x1, y2 - y1, -x1, -y1
    image, other_boxes, other_labels = loaded(mix_image.sample, mix_image.size)
    canvas: np.ndarray = np.full((height, width, 3), FILL, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    canvas = cv2.resize(canvas, (jittered_width, jittered_height), interpolation=cv2.INTER_LINEAR)
    other_boxes = other_boxes * np.array([jittered_width / width, jittered_height / height] * 2)
    if mix_image.is_flipped:
        canvas = canvas[:, ::-1]
        other_boxes = np.stack(
            (
                jittered_width - other_boxes[:, 2],
                other_boxes[:, 1],
                jittered_width - other_boxes[:, 0],
                other_boxes[:, 3],
            ),
            1,
        )
    padded = np.zeros((max(jittered_height, height), max(jittered_width, width), 3), np.uint8)
    padded[:jittered_height, :jittered_width] = canvas
    crop = padded[top : top + height, left : left + width]
    before = other_boxes - (left, top, left, top)
    after = clip(before, mix_image.size)
    if keep is not None:
        kept = keep(before, after)
        if not kept.any():
            return first, boxes, labels
        after, other_labels = after[kept], other_labels[kept]
    mixed = 0.5 * first.astype(np.float32) + 0.5 * crop.astype(np.float32)
    return mixed.astype(np.uint8), np.concatenate((boxes, after)), np.concatenate((labels, other_labels))


def hsv(image: np.ndarray, form: Hsv | None, steps: HsvChange) -> np.ndarray:
    """Colour jitter channel by channel: by tables (gain) or in 16 bits (shift). Not Darknet's `HsvScale`."""
    if isinstance(form, HsvScale):
        raise TypeError("the textbook version has no HsvScale")
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    if isinstance(form, HsvGain):
        levels = np.arange(256, dtype=np.float64)
        hue = cv2.LUT(hue, ((levels * steps[0]) % 180).astype(np.uint8))
        saturation = cv2.LUT(saturation, np.clip(levels * steps[1], 0, 255).astype(np.uint8))
        value = cv2.LUT(value, np.clip(levels * steps[2], 0, 255).astype(np.uint8))
    else:
        hue = ((hue.astype(np.int16) + steps[0]) % 180).astype(np.uint8)
        saturation = np.clip(saturation.astype(np.int16) + steps[1], 0, 255).astype(np.uint8)
        value = np.clip(value.astype(np.int16) + steps[2], 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB)


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The image at the top left of a grey frame."""
    canvas = np.full((*size, 3), FILL, np.uint8)
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    sides = (int(image.shape[1] * ratio), int(image.shape[0] * ratio))
    canvas[: sides[1], : sides[0]] = cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR)
    return canvas, ratio


def tensor(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


def hulls(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(M, 4) the axis-aligned hulls of the four moved corners."""
    points = np.ones((len(boxes) * 4, 3))
    points[:, :2] = boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2)
    points = (points @ matrix.T)[:, :2].reshape(-1, 8)
    x, y = points[:, [0, 2, 4, 6]], points[:, [1, 3, 5, 7]]
    return np.stack((x.min(1), y.min(1), x.max(1), y.max(1)), 1)


def clip(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(M, 4) boxes cut at the border."""
    return np.clip(boxes, 0, (size[1], size[0], size[1], size[0]))
