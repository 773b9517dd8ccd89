"""Darknet's augmentation (YOLOv4): random crop, colour jitter, flip, and its mosaic of four crops."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from onelook.augment.collage import Layer, visible_region, warp_layer
from onelook.augment.colour import HsvChange, HsvScale, to_rgb
from onelook.augment.geometry import flip_matrix, scale_matrix, translation_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import MAX_LEVEL, image_size, read_pixels
from onelook.augment.mosaic import Rectangle, quarter
from onelook.augment.sampler import ImageSampler
from onelook.types import Sample


@dataclass(frozen=True, eq=False)
class Crop:
    """The random parameters of one image: its rectangle that fills the input, its flip and its colour change.

    rectangle: may extend beyond the image.
    """

    sample: Sample
    rectangle: Rectangle
    flips: bool
    colours: HsvChange | None

    def matrix(self, size: tuple[int, int]) -> np.ndarray:
        """(3, 3) from pixels of the image to an input of `size`."""
        x1, y1, x2, y2 = self.rectangle
        scale = scale_matrix(size[1] / (x2 - x1), size[0] / (y2 - y1)) @ translation_matrix(-x1, -y1)
        return flip_matrix(size[1]) @ scale if self.flips else scale

    def padding(self, size: tuple[int, int]) -> Rectangle:
        """How many pixels of the input are padding: (left, top, right, bottom)."""
        (x1, y1, x2, y2), (height, width) = self.rectangle, image_size(self.sample)
        wide, high = size[1] / (x2 - x1), size[0] / (y2 - y1)
        left, right = max(0, int(-x1 * wide)), max(0, int((x2 - width) * wide))
        if self.flips:
            left, right = right, left
        return left, max(0, int(-y1 * high)), right, max(0, int((y2 - height) * high))


@dataclass(frozen=True, eq=False)
class Tile:
    """A crop moved by (x, y) whole pixels and clipped to a rectangle of the output image."""

    crop: Crop
    move: tuple[int, int]
    rectangle: Rectangle


@dataclass(frozen=True)
class DarknetAugment:
    """Darknet's augmentation for detectors, with the settings of yolov4.cfg.

    jitter: each edge of the crop moves by up to this part of the side, inwards or outwards.  resize: beyond that, by a
    factor between 1 / resize and resize (1 for none; 1.5 in the cfgs of tiny, csp and x-mish).  letterbox: the crop
    grows to the input's aspect; otherwise it is stretched.  mosaic: probability of four images around a point that lies
    within `spread` of the sides; Darknet decides it for a sixth of a step's images at once.  bound: whether objects are
    clipped to their tile; by default only to the whole image, as published, so that they reach into other tiles.
    hsv, flip: colours, and the probability of a horizontal flip, for each image separately.

    Pixels beyond an image have its mean colour. Objects narrower or lower than a pixel are dropped. Darknet clips
    boxes in whole pixels, so that its boxes may be up to one pixel larger.
    """

    jitter: float = 0.3
    resize: float = 1.0
    letterbox: bool = False
    mosaic: float = 0.5
    spread: tuple[float, float] = (0.2, 0.8)
    bound: bool = False
    hsv: HsvScale | None = HsvScale()
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 0.5 or self.resize <= 0:
            raise ValueError(f"jitter lies in [0, 0.5) and resize above 0, not {self.jitter} and {self.resize}")

    @property
    def uses_polygons(self) -> bool:
        """False: only boxes are used."""
        return False

    def __call__(self, sample: Sample, sampler: ImageSampler, rng: np.random.Generator) -> Sample:
        """An image of `sampler.size` made of the sample, or of the sample and three others of the set."""
        height, width = size = sampler.size
        if rng.random() >= self.mosaic:
            crop = self.sample_parameters(sample, size, None, rng)
            return self.render([Tile(crop, (0, 0), (0, 0, width, height))], size)
        y, x = (int(rng.uniform(*self.spread) * side) for side in size)
        samples = (sample, *(sampler(rng) for _ in range(3)))
        crops = [self.sample_parameters(one, size, number, rng) for number, one in enumerate(samples)]
        tiles = [Tile(crop, *quarter(number, (x, y), size, crop.padding(size))) for number, crop in enumerate(crops)]
        return self.render(tiles, size)

    def sample_parameters(
        self, sample: Sample, size: tuple[int, int], tile: int | None, rng: np.random.Generator
    ) -> Crop:
        """The random crop of an image for an input of `size`; tile: its number in a mosaic, None without mosaic."""
        height, width = image_size(sample)
        flips = bool(rng.random() < self.flip)
        left, right = (int(rng.uniform(-self.jitter, self.jitter) * width) for _ in range(2))
        top, bottom = (int(rng.uniform(-self.jitter, self.jitter) * height) for _ in range(2))
        # One random number moves left and top, another right and bottom; 1 - 1 / down is negative: outwards.
        down, up = min(self.resize, 1 / self.resize), max(self.resize, 1 / self.resize)
        near, far = (rng.uniform((1 - 1 / down) / 2, (1 - 1 / up) / 2) for _ in range(2))
        left, top = left + int(near * width), top + int(near * height)
        right, bottom = right + int(far * width), bottom + int(far * height)
        if self.letterbox:
            left, top, right, bottom = grow_to_aspect((left, top, right, bottom), (height, width), size)
        if tile is not None and rng.random() < 0.5:
            # The crop moves towards the corner that the mosaic shows, so that less is lost.
            shows_right = (tile in (0, 2)) != flips
            left, right = (left + right, 0) if shows_right else (0, left + right)
            top, bottom = (top + bottom, 0) if tile in (0, 1) else (0, top + bottom)
        rectangle = (left, top, width - right, height - bottom)
        if rectangle[0] >= rectangle[2] or rectangle[1] >= rectangle[3]:
            rectangle = (0, 0, width, height)
        return Crop(sample, rectangle, flips, None if self.hsv is None else self.hsv.sample_parameters(rng))

    def render(self, tiles: list[Tile], size: tuple[int, int]) -> Sample:
        """The image of some tiles with its objects: a deterministic function of the random parameters."""
        canvas = np.empty((*size, 4), np.uint8)
        found = []
        for tile in tiles:
            self._render_tile(canvas, tile, size)
            instances = Instances(tile.crop.sample.boxes, tile.crop.sample.labels, tile.crop.sample.polygons)
            instances = drop_small(instances.transformed(tile.crop.matrix(size)).clipped(size))
            instances = instances.transformed(translation_matrix(*tile.move))
            found.append(
                drop_small(clip_to_rectangle(instances, tile.rectangle) if self.bound else instances.clipped(size))
            )
        return concatenate(found).to_sample(to_rgb(canvas))

    def _render_tile(self, canvas: np.ndarray, tile: Tile, size: tuple[int, int]) -> None:
        crop, (x1, y1, x2, y2) = tile.crop, tile.rectangle
        jitter = to_rgb if self.hsv is None else partial(self.hsv.apply, change=crop.colours)
        part = canvas[y1:y2, x1:x2]
        if any(crop.padding(size)):
            mean = np.array(cv2.mean(read_pixels(crop.sample, MAX_LEVEL)[0])[:3]).round().astype(np.uint8)
            part[..., :3] = jitter(mean[None, None])
        height, width = image_size(crop.sample)
        left, top, right, bottom = crop.rectangle
        region = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        matrix = translation_matrix(tile.move[0] - x1, tile.move[1] - y1) @ crop.matrix(size)
        layer = Layer(crop.sample, matrix, region)
        visible = visible_region(layer, part.shape[:2])
        if visible is not None:
            warp_layer(part, layer, visible, jitter)


def grow_to_aspect(edges: Rectangle, source: tuple[int, int], size: tuple[int, int]) -> Rectangle:
    """Enlarges a crop equally on two sides to the aspect ratio of `size`; edges are pixels cut from each side."""
    left, top, right, bottom = edges
    width, height = source[1] - left - right, source[0] - top - bottom
    if width * size[0] > height * size[1]:
        more = int((width * size[0] / size[1] - height) / 2)
        return left, top - more, right, bottom - more
    more = int((height * size[1] / size[0] - width) / 2)
    return left - more, top, right - more, bottom


def clip_to_rectangle(instances: Instances, rectangle: Rectangle) -> Instances:
    """Objects with boxes clipped to a rectangle, in whole pixels."""
    low, high = np.array(rectangle[:2]), np.array(rectangle[2:])
    starts, ends = np.floor(instances.boxes[:, :2]), np.floor(instances.boxes[:, 2:])
    boxes = np.concatenate((np.clip(starts, low, high), np.clip(ends, low, high)), 1)
    return Instances(boxes, instances.labels, instances.polygons)


def drop_small(instances: Instances) -> Instances:
    """The objects that are at least a pixel wide and high."""
    return instances.select((instances.boxes[:, 2:] - instances.boxes[:, :2] >= 1).all(1))
