"""Darknet's augmentation (YOLOv4): jittered crops, colours, flips and the mosaic of four, each pixel warped once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from onelook.augment.collage import Layer, warp_layer, visible_region
from onelook.augment.colour import HsvScale, HsvChange, to_rgb
from onelook.augment.geometry import flip_matrix, translation_matrix, scale_matrix
from onelook.augment.instances import Instances, concatenate
from onelook.augment.lazy_sample import MAX_LEVEL, ImageSampler, read_pixels, image_size
from onelook.types import Sample

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels


@dataclass(frozen=True, eq=False)
class Crop:
    """One drawn image: the rectangle of it that fills the input (perhaps beyond its border), flip and colours."""

    sample: Sample
    rectangle: Rectangle
    flips: bool
    colours: HsvChange | None

    def matrix(self, size: tuple[int, int]) -> np.ndarray:
        """From pixels of the image to an input of `size`."""
        x1, y1, x2, y2 = self.rectangle
        scale = scale_matrix(size[1] / (x2 - x1), size[0] / (y2 - y1)) @ translation_matrix(-x1, -y1)
        return flip_matrix(size[1]) @ scale if self.flips else scale

    def padding(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) pixels of the input that lie beyond the image, 0 where none do."""
        (x1, y1, x2, y2), (height, width) = self.rectangle, image_size(self.sample)
        wide, high = size[1] / (x2 - x1), size[0] / (y2 - y1)
        left, right = max(0, int(-x1 * wide)), max(0, int((x2 - width) * wide))
        if self.flips:
            left, right = right, left
        return left, max(0, int(-y1 * high)), right, max(0, int((y2 - height) * high))


@dataclass(frozen=True, eq=False)
class Tile:
    """A crop moved by (x, y) whole pixels and seen inside a rectangle of the picture."""

    crop: Crop
    move: tuple[int, int]
    place: Rectangle


@dataclass(frozen=True)
class DarknetAugment:
    """What Darknet does to the images of a detector, with the settings of yolov4.cfg.

    jitter: each edge of the crop moves by up to this part of the side, in or out.  resize: beyond that, by a factor
    between 1 / resize and resize (1 for none; 1.5 in the cfgs of tiny, csp and x-mish).  letterbox: the crop grows to
    the input's aspect; otherwise it is stretched.  mosaic: probability of four images around a point that lies within
    `spread` of the sides; Darknet decides it for a sixth of a step's images at once.  bound: whether objects are cut at
    the edge of their tile; by default only at the picture's, as published, so that they reach into other tiles.
    hsv, flip: colours, and the probability of a horizontal flip, of every image for itself.

    What lies beyond an image has its mean colour. Objects narrower or lower than a pixel are dropped. Darknet cuts
    boxes by whole pixels, so that its boxes may stick out by less than one.
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
        """Boxes are enough."""
        return False

    def __call__(self, sample: Sample, draw: ImageSampler, rng: np.random.Generator) -> Sample:
        """A picture of `draw.size` of the sample, or of it and three others of the set."""
        height, width = draw.size
        if rng.random() >= self.mosaic:
            return self.render(
                [Tile(self.draw(sample, draw.size, None, rng), (0, 0), (0, 0, width, height))], draw.size
            )
        y, x = (int(rng.uniform(*self.spread) * side) for side in draw.size)
        samples = (sample, *(draw(rng) for _ in range(3)))
        crops = [self.draw(one, draw.size, number, rng) for number, one in enumerate(samples)]
        tiles = [place_crop(crop, number, (x, y), draw.size) for number, crop in enumerate(crops)]
        return self.render(tiles, draw.size)

    def draw(self, sample: Sample, size: tuple[int, int], tile: int | None, rng: np.random.Generator) -> Crop:
        """The crop of an image for an input of `size`; tile: its number in a mosaic, None outside."""
        height, width = image_size(sample)
        flips = bool(rng.random() < self.flip)
        left, right = (int(rng.uniform(-self.jitter, self.jitter) * width) for _ in range(2))
        top, bottom = (int(rng.uniform(-self.jitter, self.jitter) * height) for _ in range(2))
        # One draw moves left and top, another right and bottom; 1 - 1 / down is negative: outwards.
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
        return Crop(sample, rectangle, flips, None if self.hsv is None else self.hsv.draw(rng))

    def render(self, tiles: list[Tile], size: tuple[int, int]) -> Sample:
        """The picture of some tiles with its objects: a pure function of what was drawn."""
        picture = np.empty((*size, 4), np.uint8)
        found = []
        for tile in tiles:
            self._paint(picture, tile, size)
            objects = Instances(tile.crop.sample.boxes, tile.crop.sample.labels, tile.crop.sample.polygons)
            objects = drop_small(objects.moved(tile.crop.matrix(size)).clipped(size))
            objects = objects.moved(translation_matrix(*tile.move))
            found.append(drop_small(clip_to_rectangle(objects, tile.place) if self.bound else objects.clipped(size)))
        objects = concatenate(found)
        return Sample(to_rgb(picture), objects.boxes.astype(np.float32), objects.labels, objects.polygons)

    def _paint(self, picture: np.ndarray, tile: Tile, size: tuple[int, int]) -> None:
        crop, (x1, y1, x2, y2) = tile.crop, tile.place
        jitter = to_rgb if self.hsv is None else partial(self.hsv.apply, steps=crop.colours)
        part = picture[y1:y2, x1:x2]
        if any(crop.padding(size)):
            mean = np.array(cv2.mean(read_pixels(crop.sample, MAX_LEVEL)[0])[:3]).round().astype(np.uint8)
            part[..., :3] = jitter(mean[None, None])
        height, width = image_size(crop.sample)
        left, top, right, bottom = crop.rectangle
        region = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        matrix = translation_matrix(tile.move[0] - x1, tile.move[1] - y1) @ crop.matrix(size)
        layer = Layer(crop.sample, matrix, region)
        view = visible_region(layer, part.shape[:2])
        if view is not None:
            warp_layer(part, layer, view, jitter)


def place_crop(crop: Crop, number: int, cut: tuple[int, int], size: tuple[int, int]) -> Tile:
    """The tile of a mosaic around the point `cut` (x, y): top left, top right, bottom left, bottom right.

    Each shows the corner of its crop that lies next to the point, moved so that padding is not shown where that is
    possible.
    """
    return Tile(crop, *place_in_mosaic(number, cut, size, crop.padding(size)))


def place_in_mosaic(
    number: int, cut: tuple[int, int], size: tuple[int, int], padding: tuple[int, int, int, int]
) -> tuple[tuple[int, int], Rectangle]:
    """How a tile's crop moves (x, y), and its rectangle; padding: (left, top, right, bottom) pixels of the crop."""
    (x, y), (height, width), (left, top, right, bottom) = cut, size, padding
    is_left, is_top = number in (0, 2), number in (0, 1)
    move_x = x - width + min(width - x, right) if is_left else x - min(x, left)
    move_y = y - height + min(height - y, bottom) if is_top else y - min(y, top)
    return (move_x, move_y), (
        0 if is_left else x,
        0 if is_top else y,
        x if is_left else width,
        y if is_top else height,
    )


def grow_to_aspect(edges: Rectangle, source: tuple[int, int], size: tuple[int, int]) -> Rectangle:
    """Edges (left, top, right, bottom, inwards) of a crop that grows symmetrically to the aspect of `size`."""
    left, top, right, bottom = edges
    width, height = source[1] - left - right, source[0] - top - bottom
    if width * size[0] > height * size[1]:
        more = int((width * size[0] / size[1] - height) / 2)
        return left, top - more, right, bottom - more
    more = int((height * size[1] / size[0] - width) / 2)
    return left - more, top, right - more, bottom


def clip_to_rectangle(objects: Instances, place: Rectangle) -> Instances:
    """Objects with boxes cut at the edges of a rectangle, in whole pixels."""
    low, high = np.array(place[:2]), np.array(place[2:])
    starts, ends = np.floor(objects.boxes[:, :2]), np.floor(objects.boxes[:, 2:])
    boxes = np.concatenate((np.clip(starts, low, high), np.clip(ends, low, high)), 1)
    return Instances(boxes, objects.labels, objects.polygons)


def drop_small(objects: Instances) -> Instances:
    """The objects that are a pixel wide and high."""
    return objects.rows((objects.boxes[:, 2:] - objects.boxes[:, :2] >= 1).all(1))
