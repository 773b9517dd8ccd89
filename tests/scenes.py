"""Small images whose objects are rectangles of pure colours: an augmented box can be compared with its pixels."""

from __future__ import annotations

import cv2
import numpy as np

from onelook.types import Sample
from sampling import ListSampler

SIZE = (160, 160)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])


def scene(seed: int, objects: int = 2) -> Sample:
    """A smooth image with rectangles of pure colours, which are its objects, with polygons."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(90, 260, 2).tolist()
    image = cv2.resize(rng.integers(60, 180, (12, 12, 3), dtype=np.uint8), (width, height))
    boxes = []
    for i in range(objects):
        x1, y1 = int(rng.integers(0, width // 2)), i * (height // objects)
        x2, y2 = x1 + int(rng.integers(20, width // 2)), y1 + int(rng.integers(20, height // objects))
        image[y1:y2, x1:x2] = COLOURS[i]
        boxes.append([x1, y1, x2, y2])
    found = np.array(boxes, np.float32).reshape(-1, 4)
    polygons = tuple((np.array([[a, b], [c, b], [c, d], [a, d]], np.float32),) for a, b, c, d in boxes)
    return Sample(image, found, np.arange(objects), polygons)


SCENES = tuple(scene(seed) for seed in range(12))
SAMPLER = ListSampler(SCENES, SIZE)


def extent(image: np.ndarray, colour: np.ndarray, tolerance: int = 100) -> np.ndarray | None:
    """The box around the pixels of a colour."""
    close = np.abs(image.astype(int) - colour).sum(-1) < tolerance
    if not close.any():
        return None
    rows, columns = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
