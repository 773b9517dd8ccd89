"""Random backgrounds of synthetic images: boards, meadow, cloth, tiles, sand and water."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from onelook.data.synthetic_objects import hsv, noise


def ground(rng: Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 RGB 0..1: one random ground."""
    kinds = (boards, meadow, cloth, tiles, sand, water)
    image = kinds[int(rng.integers(len(kinds)))](rng, height, width)
    return np.clip(image, 0.02, 1).astype(np.float32)


def _tinted(shade: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    return shade[..., None] * np.array(colour, np.float32)


def boards(rng: Generator, height: int, width: int) -> np.ndarray:
    """Wooden boards with grain, each of its own brightness."""
    across = rng.random() < 0.5
    if across:
        height, width = width, height
    board = max(8, round(height * rng.uniform(0.14, 0.3)))
    grain = cv2.resize(noise(rng, height, max(2, width // 12), height / 3), (width, height)) + noise(
        rng, height, width, 4
    )
    shade = 0.8 + 0.09 * grain
    offset = int(rng.integers(board))
    for top in range(-offset, height, board):
        rows = slice(max(top, 0), max(top + board, 0))
        shade[rows] *= rng.uniform(0.85, 1.1)
        shade[max(top, 0) : max(top + max(1, board // 20), 0)] *= 0.45
    image = _tinted(shade, hsv(rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.6), rng.uniform(0.5, 0.95)))
    return image.transpose(1, 0, 2) if across else image


def meadow(rng: Generator, height: int, width: int) -> np.ndarray:
    """Grass: soft patches and many blades."""
    shade = 0.62 + 0.16 * noise(rng, height, width, 5) + 0.1 * noise(rng, height, width, 40, 2)
    image = _tinted(shade, hsv(rng.uniform(0.2, 0.33), rng.uniform(0.4, 0.7), rng.uniform(0.7, 1.0)))
    length = 0.05 * min(height, width)
    count = height * width // 120
    starts = rng.uniform(0, (width, height), (count, 2))
    ends = starts + np.stack([rng.normal(0, 0.4, count), -rng.uniform(0.4, 1, count)], 1) * length
    for start, end, bright in zip(starts, ends, rng.uniform(0.5, 1.15, count)):
        colour = tuple(float(part) for part in np.array(hsv(0.27, 0.6, 0.75)) * bright)
        points = [tuple(int(part * 16) for part in point) for point in (start, end)]
        cv2.line(image, points[0], points[1], colour, 1, cv2.LINE_AA, 4)
    return image


def cloth(rng: Generator, height: int, width: int) -> np.ndarray:
    """A checked cloth, a little turned and wavy."""
    angle, period = rng.uniform(0, np.pi / 2), min(height, width) * rng.uniform(0.12, 0.3)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x += 0.03 * min(height, width) * noise(rng, height, width, 3, 1)
    along, beside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    checks = (
        (np.sin(along * 2 * np.pi / period) > 0).astype(np.float32) + (np.sin(beside * 2 * np.pi / period) > 0)
    ) / 2
    weave = 0.04 * np.sin(along * 2.2) * np.sin(beside * 2.2)
    light, dark = np.array(hsv(rng.random(), 0.1, 0.95)), np.array(hsv(rng.random(), rng.uniform(0.2, 0.6), 0.75))
    image = dark + checks[..., None] * (light - dark)
    return (image * (0.95 + weave + 0.05 * noise(rng, height, width, 3))[..., None]).astype(np.float32)


def tiles(rng: Generator, height: int, width: int) -> np.ndarray:
    """Stone tiles with joints."""
    side = max(10, round(min(height, width) * rng.uniform(0.2, 0.45)))
    joint = max(1, side // 24)
    shade = 0.8 + 0.08 * noise(rng, height, width, 30) + 0.06 * noise(rng, height, width, 4)
    top, left = (int(value) for value in rng.integers(side, size=2))
    for row in range(-top, height, side):
        for column in range(-left, width, side):
            place = (slice(max(row, 0), max(row + side, 0)), slice(max(column, 0), max(column + side, 0)))
            shade[place] *= rng.uniform(0.88, 1.08)
        shade[max(row, 0) : max(row + joint, 0)] *= 0.6
    for column in range(-left, width, side):
        shade[:, max(column, 0) : max(column + joint, 0)] *= 0.6
    return _tinted(shade, hsv(rng.random(), rng.uniform(0.02, 0.25), rng.uniform(0.6, 1.0)))


def sand(rng: Generator, height: int, width: int) -> np.ndarray:
    """Sand: ripples and grains."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / min(height, width)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle) + 0.06 * noise(rng, height, width, 3)
    shade = 0.85 + 0.05 * np.sin(along * rng.uniform(25, 60)) + 0.05 * rng.standard_normal((height, width))
    shade = shade + 0.06 * noise(rng, height, width, 4)
    return _tinted(
        shade.astype(np.float32), hsv(rng.uniform(0.08, 0.13), rng.uniform(0.2, 0.4), rng.uniform(0.75, 1.0))
    )


def water(rng: Generator, height: int, width: int) -> np.ndarray:
    """Shallow water: a net of light over blue and green."""
    shade = 0.7 + 0.12 * noise(rng, height, width, 3)
    net = np.abs(noise(rng, height, width, 7, 2)) + np.abs(noise(rng, height, width, 9, 2))
    shine = np.clip(1 - 2.2 * net, 0, 1) ** 2
    image = _tinted(shade, hsv(rng.uniform(0.45, 0.6), rng.uniform(0.35, 0.65), rng.uniform(0.7, 1.0)))
    return image + 0.35 * shine[..., None]
