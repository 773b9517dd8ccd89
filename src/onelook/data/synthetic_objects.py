"""The objects of synthetic images: drawn from circles and polygons, then shaded like solid bodies.

An object is painted in its own coordinates (x to the right, y down, everything within 1 of the centre), part by part.
Every part rises from its outline inwards; its shading is computed from that relief and the direction of the light.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]] | np.ndarray

_LARGEST_CANVAS = 640  # pixels; smaller objects are drawn larger and shrunk, which smooths their edges


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0..1 of a hue in turns (0 red, 1/3 green, 2/3 blue), saturation and value."""
    sector = (hue % 1.0) * 6.0
    red, green, blue = (abs(sector - 3) - 1, 2 - abs(sector - 2), 2 - abs(sector - 4))
    channels = [value * (1 - saturation + saturation * min(max(part, 0.0), 1.0)) for part in (red, green, blue)]
    return channels[0], channels[1], channels[2]


def noise(rng: Generator, height: int, width: int, cells: float, octaves: int = 3) -> np.ndarray:
    """(height, width) float32 smooth noise around 0, about -1..1; `cells` grid cells along the longer side."""
    total = np.zeros((height, width), np.float32)
    strength = 1.0
    for _ in range(octaves):
        rows = max(2, round(cells * height / max(height, width)) + 1)
        columns = max(2, round(cells * width / max(height, width)) + 1)
        grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
        total += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        strength, cells = strength / 2, cells * 2
    return total


class Painter:
    """A canvas for one object. size: pixels a side; angle: radians; stretch: factors on x and y; flip: mirrored."""

    def __init__(self, size: int, angle: float, stretch: tuple[float, float], flip: bool) -> None:
        self.size = size
        self.colour = np.zeros((size, size, 3), np.float32)
        self.mask = np.zeros((size, size), np.uint8)
        self.relief = np.zeros((size, size), np.float32)
        sine, cosine = np.sin(angle), np.cos(angle)
        mirror = -1.0 if flip else 1.0
        turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([stretch[0] * mirror, stretch[1]])
        self._scale = 0.97 * size / 2 / np.abs(turn).sum(axis=1).max() * 1.2
        self._turn = turn * self._scale

    def shape(self, points: Points) -> np.ndarray:
        """(size, size) uint8 mask of a polygon."""
        corners = np.asarray(points, np.float64) @ self._turn.T + self.size / 2
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 255, lineType=cv2.LINE_8, shift=4)
        return mask

    def part(self, points: Points, colour: Colour, swell: float = 0.25, lift: float = 0.0) -> np.ndarray:
        """Paints a part of the body: it covers what is there. swell: how far in, of the radius, it is round."""
        mask = self.shape(points)
        inside = mask > 0
        self.colour[inside] = colour
        self.mask |= mask
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / max(1.0, swell * self.size / 2)
        rounded = np.sqrt(np.clip(1 - (1 - np.clip(depth, 0, 1)) ** 2, 0, 1))
        self.relief[inside] = (rounded * swell + lift)[inside]
        return mask

    def mark(self, points: Points, colour: Colour, within: np.ndarray) -> None:
        """Colours what lies inside a part (its mask) without a relief of its own."""
        self.colour[(self.shape(points) > 0) & (within > 0)] = colour

    def lit(self, light: np.ndarray, rng: Generator, shine: float) -> np.ndarray:
        """(size, size, 4) float32 RGB 0..1 and coverage: the body under a light from direction (x, y, towards us)."""
        relief = cv2.GaussianBlur(self.relief, (0, 0), max(0.8, self.size / 120)) * self.size / 2
        down, right = np.gradient(relief)
        length = np.sqrt(right**2 + down**2 + 1)
        facing = np.clip((-right * light[0] - down * light[1] + light[2]) / length, 0, 1)
        speckle = 1 + 0.06 * noise(rng, self.size, self.size, 24, 2)
        shade = (0.42 + 0.68 * facing) * speckle
        image = np.clip(self.colour * shade[..., None] + shine * (facing**24)[..., None], 0, 1)
        return np.dstack([image, self.mask.astype(np.float32) / 255])


def oval(x: float, y: float, width: float, height: float, turn: float = 0.0, *, count: int = 48) -> np.ndarray:
    """Points of an ellipse with half axes `width` and `height`, turned by radians."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    across, along = width * np.cos(angles), height * np.sin(angles)
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.stack([x + across * cosine - along * sine, y + across * sine + along * cosine], axis=1)


def ball(painter: Painter, rng: Generator) -> None:
    """A beach ball: wedges of two or three colours that meet at a pole, and a cap on it."""
    body = painter.part(oval(0, 0, 0.8, 0.8), (1.0, 1.0, 1.0), swell=0.8)
    hue = rng.random()
    colours = [hsv(hue, 0.85, 0.95), (0.97, 0.97, 0.95), hsv(hue + rng.uniform(0.25, 0.75), 0.85, 0.95)]
    colours = colours[: int(rng.integers(2, 4))]
    wedges = len(colours) * int(rng.integers(2, 4))
    pole = rng.uniform(-0.3, 0.3, 2)
    bend = rng.uniform(-0.6, 0.6)
    reach = np.linspace(0, 1.8, 12)
    for wedge in range(wedges):
        edges = []
        for side in (wedge, wedge + 1):
            angles = 2 * np.pi * side / wedges + bend * reach
            edges.append(pole + np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1))
        painter.mark(np.concatenate([edges[0], edges[1][::-1]]), colours[wedge % len(colours)], body)
    painter.mark(oval(float(pole[0]), float(pole[1]), 0.12, 0.12), (0.97, 0.97, 0.95), body)


def fish(painter: Painter, rng: Generator) -> None:
    """A fish from the side: tail and fins, a striped body, an eye."""
    hue = rng.random()
    dark, light = hsv(hue, 0.8, 0.75), hsv(hue + rng.uniform(-0.08, 0.08), 0.6, 1.0)
    painter.part([(0.35, 0.0), (0.95, -0.45), (0.8, 0.0), (0.95, 0.45)], dark, swell=0.12)
    painter.part([(-0.25, -0.3), (0.1, -0.68), (0.4, -0.25)], dark, swell=0.1)
    painter.part([(-0.1, 0.3), (0.12, 0.6), (0.35, 0.22)], dark, swell=0.1)
    along = np.linspace(0, np.pi, 24)
    back = np.stack([-0.9 + 1.42 * (1 - np.cos(along)) / 2, -0.42 * np.sin(along) ** 0.8], axis=1)
    body = painter.part(np.concatenate([back, back[::-1] * (1, -1)]), light, swell=0.4)
    stripe = hsv(hue + rng.uniform(0.3, 0.7), 0.7, 0.95)
    for x in np.linspace(-0.35, 0.3, int(rng.integers(2, 5))):
        painter.mark(oval(x, 0, 0.06, 0.6), stripe, body)
    painter.mark(oval(-0.62, -0.1, 0.1, 0.1), (0.98, 0.98, 0.98), body)
    painter.mark(oval(-0.64, -0.1, 0.05, 0.05), (0.05, 0.05, 0.08), body)


def flower(painter: Painter, rng: Generator) -> None:
    """A blossom from above: a ring of petals around a disc."""
    hue = rng.random()
    count = int(rng.integers(5, 9))
    long, wide = rng.uniform(0.36, 0.42), min(0.30, 1.5 / count)
    tip = hsv(hue + rng.uniform(-0.1, 0.1), 0.35, 1.0)
    for petal in range(count):
        angle = 2 * np.pi * petal / count
        x, y = 0.47 * np.cos(angle), 0.47 * np.sin(angle)
        shape = painter.part(oval(x, y, long, wide, angle), hsv(hue, 0.65, 0.98), swell=0.2)
        painter.mark(oval(1.75 * x, 1.75 * y, long * 0.5, wide, angle), tip, shape)
    disc = painter.part(oval(0, 0, 0.27, 0.27), hsv(0.12, 0.85, 0.95), swell=0.2, lift=0.12)
    for x, y in rng.uniform(-0.2, 0.2, (14, 2)):
        painter.mark(oval(x, y, 0.03, 0.03, count=8), hsv(0.07, 0.9, 0.6), disc)


def mug(painter: Painter, rng: Generator) -> None:
    """A mug: a handle, a body with a band or dots, a rim with something to drink."""
    hue = rng.random()
    colour = hsv(hue, rng.uniform(0.25, 0.8), rng.uniform(0.75, 1.0))
    outer, inner = oval(0.5, 0.05, 0.36, 0.36), oval(0.5, 0.05, 0.2, 0.2)
    ring = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    painter.part(ring, colour, swell=0.08)
    low = oval(0, 0.58, 0.5, 0.16)[:25]
    body = painter.part(np.concatenate([low, [(-0.55, -0.5), (0.55, -0.5)]]), colour, swell=0.45)
    accent = hsv(hue + rng.uniform(0.3, 0.7), 0.7, 0.9)
    if rng.random() < 0.5:
        top = rng.uniform(-0.2, 0.1)
        curve = oval(0, top, 0.62, 0.12)[:25]
        painter.mark(np.concatenate([curve, curve[::-1] + np.array([0, 0.25])]), accent, body)
    else:
        for x in np.linspace(-0.4, 0.4, 4):
            for y in (-0.15, 0.15, 0.45):
                painter.mark(oval(x, y, 0.07, 0.07, count=12), accent, body)
    rim = painter.part(oval(0, -0.5, 0.55, 0.17), colour, swell=0.05, lift=0.3)
    painter.mark(oval(0, -0.49, 0.46, 0.12), hsv(0.07, 0.7, rng.uniform(0.2, 0.45)), rim)


def mushroom(painter: Painter, rng: Generator) -> None:
    """A toadstool: a pale stalk under a spotted cap."""
    stalk = [(-0.2, -0.1), (0.2, -0.1), (0.17, 0.4), (0.3, 0.75), (0.0, 0.82), (-0.3, 0.75), (-0.17, 0.4)]
    painter.part(stalk, hsv(0.11, rng.uniform(0.1, 0.25), 0.95), swell=0.22)
    arch = oval(0, -0.02, 0.78, 0.72)[24:]
    cap = np.concatenate([arch, [(0.78, -0.02)], oval(0, -0.02, 0.78, rng.uniform(0.1, 0.22))[:25]])
    body = painter.part(
        cap, hsv(float(rng.choice([0.0, 0.05, 0.08, 0.75, 0.58])), 0.8, rng.uniform(0.7, 0.95)), swell=0.5
    )
    for x, y in ((-0.45, -0.22), (-0.12, -0.48), (0.22, -0.2), (0.5, -0.1), (0.3, -0.52), (-0.12, -0.08)):
        moved = rng.uniform(-0.06, 0.06, 2)
        painter.mark(oval(x + moved[0], y + moved[1], rng.uniform(0.06, 0.12), 0.08, count=20), (0.97, 0.95, 0.9), body)


def star(painter: Painter, rng: Generator) -> None:
    """A star cushion with five points and a rim."""
    hue = rng.random()
    inner = rng.uniform(0.38, 0.46)
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 0.92, inner * 0.92)
    corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    body = painter.part(corners, hsv(hue, 0.8, 0.95), swell=0.35)
    painter.mark(corners * 0.62, hsv(hue + rng.uniform(0.05, 0.2), 0.7, 1.0), body)
    painter.mark(corners * 0.3, (0.98, 0.97, 0.92), body)


def pebble(painter: Painter, rng: Generator) -> None:
    """A stone: clutter, never labelled."""
    painter.part(oval(0, 0, 0.8, rng.uniform(0.5, 0.75)), hsv(rng.random(), 0.12, rng.uniform(0.35, 0.75)), swell=0.5)


def stick(painter: Painter, rng: Generator) -> None:
    """A twig: clutter, never labelled."""
    bark = hsv(0.08, 0.5, rng.uniform(0.3, 0.6))
    painter.part([(-0.9, -0.06), (0.0, -0.09), (0.9, -0.03), (0.9, 0.04), (0.0, 0.06), (-0.9, 0.08)], bark, swell=0.08)
    painter.part([(0.1, -0.05), (0.5, -0.4), (0.55, -0.35), (0.22, 0.0)], bark, swell=0.05)


def leaf(painter: Painter, rng: Generator) -> None:
    """A leaf with a vein: clutter, never labelled."""
    along = np.linspace(0, np.pi, 20)
    half = np.stack([-np.cos(along) * 0.9, 0.38 * np.sin(along) ** 1.3], axis=1)
    hue = float(rng.choice([0.09, 0.13, 0.28, 0.34]))
    body = painter.part(np.concatenate([half, half[::-1] * (1, -1)]), hsv(hue, 0.7, rng.uniform(0.4, 0.8)), swell=0.2)
    painter.mark([(-0.9, -0.02), (0.9, -0.01), (0.9, 0.01), (-0.9, 0.02)], hsv(hue, 0.4, 0.9), body)


@dataclass(frozen=True)
class Kind:
    """How an object is drawn, and how far it may be turned from upright (radians)."""

    draw: Callable[[Painter, Generator], None]
    lean: float = np.pi


KINDS: dict[str, Kind] = {
    "ball": Kind(ball),
    "fish": Kind(fish, lean=0.7),
    "flower": Kind(flower),
    "mug": Kind(mug, lean=0.35),
    "mushroom": Kind(mushroom, lean=0.45),
    "star": Kind(star),
}
CLUTTER: tuple[Kind, ...] = (Kind(pebble), Kind(stick), Kind(leaf))


def render(kind: Kind, extent: float, light: np.ndarray, rng: Generator, longer: float = 1.0) -> np.ndarray:
    """(h, w, 4) float32 RGB 0..1 and coverage: one random object, cropped; its longer side is `extent` pixels.

    longer: how many times the object is stretched along one of its own axes.
    """
    size = int(np.clip(round(extent * 2), 80, _LARGEST_CANVAS))
    narrow = rng.uniform(0.85, 1.0) / longer
    stretch = (narrow, 1.0) if rng.random() < 0.5 else (1.0, narrow)
    painter = Painter(size, rng.uniform(-kind.lean, kind.lean), stretch, rng.random() < 0.5)
    kind.draw(painter, rng)
    image = painter.lit(light, rng, shine=rng.uniform(0.0, 0.3))
    rows, columns = np.flatnonzero(painter.mask.any(1)), np.flatnonzero(painter.mask.any(0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image[..., :3] *= image[..., 3:]  # outside is transparent, so that shrinking mixes no black into the edges
    scale = extent / max(image.shape[:2])
    width, height = max(3, round(image.shape[1] * scale)), max(3, round(image.shape[0] * scale))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.dstack([small[..., :3] / np.maximum(small[..., 3:], 1e-6), small[..., 3]])
