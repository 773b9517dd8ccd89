"""What of an annotated box lies inside its image: the one rule of training, val, check, convert and the drawn batch.

A box is intersected with its image. One that lies wholly outside, or has no area, is no object.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

SLACK = 1.0  # pixels a box may stick out unmentioned: rounding, and the two conventions of counting pixels

BeyondImage = Literal["cut", "slide"]
"""What becomes of a box that reaches beyond its image; see `clean_boxes`."""


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) corners of boxes given as left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def clean_boxes(
    boxes: np.ndarray, height: int | np.ndarray, width: int | np.ndarray, beyond: BeyondImage = "cut"
) -> tuple[np.ndarray, np.ndarray]:
    """(xyxy boxes, kept (M,) bool) of annotated boxes (left, top, width, height); kept are those with an area.

    height, width: of the image, or (M,) of each box's image.  beyond: "cut" intersects a box with its image; "slide" is
    the clean-up published for COCO, x1, y1 = max(0, x), then x2, y2 = min(size, x1 + width), which moves a box that
    begins left of its image into it with its width, even one that lies wholly outside.
    """
    size = np.array((width, height), np.float64).T
    sides = np.maximum(boxes[:, 2:], 0.0)
    start = np.maximum(boxes[:, :2], 0.0)
    stop = np.minimum((start if beyond == "slide" else boxes[:, :2]) + sides, size)
    large = stop > start
    return np.concatenate((start, stop), axis=1), large[:, 0] & large[:, 1]


def reach_beyond(
    boxes: np.ndarray, height: int | np.ndarray, width: int | np.ndarray, slack: float = SLACK
) -> np.ndarray:
    """(M,) bool: whether a box (left, top, width, height) reaches out of its image by more than `slack` pixels."""
    size = np.array((width, height), np.float64).T
    return (boxes[:, :2] < -slack).any(axis=1) | (boxes[:, :2] + boxes[:, 2:] > size + slack).any(axis=1)


def cut_outline(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """(V, 2) the part of an outline inside its image (Sutherland and Hodgman 1974); (0, 2) where nothing is inside."""
    for axis, limit, sign in ((0, 0.0, 1.0), (1, 0.0, 1.0), (0, float(width), -1.0), (1, float(height), -1.0)):
        if not len(ring):
            break
        inside = sign * (ring[:, axis] - limit) >= 0
        if inside.all():
            continue
        points = []
        for here, there, here_inside, there_inside in zip(ring, np.roll(ring, -1, 0), inside, np.roll(inside, -1)):
            if here_inside:
                points.append(here)
            if here_inside != there_inside:
                crossing = here + (there - here) * ((limit - here[axis]) / (there[axis] - here[axis]))
                crossing[axis] = limit
                points.append(crossing)
        ring = np.array(points).reshape(-1, 2)
    return ring
