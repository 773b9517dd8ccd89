"""Rectangular evaluation: a batch has images of similar aspect ratio, and an input no larger than they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from onelook.augment.letterbox import Letterbox, Resize
from onelook.errors import UsageError

Group = tuple[tuple[int, ...], tuple[int, int]]
"""Rows of a data set that are one batch, and the (height, width) of their input."""


@dataclass(frozen=True)
class Rectangular:
    """The batches of YOLOv7's published evaluation.

    margin: cells of the largest stride that are added to both sides before they are rounded up. Half a cell is why
    images of 640 pixels meet inputs of 672 (official behaviour; the images themselves stay at 640).
    """

    margin: float = 0.5

    def groups(self, sizes: np.ndarray, longest: int, stride: int, batch: int) -> list[Group]:
        """The batches of images of `sizes` (I, 2) height and width, wide images first.

        longest: longer side of every image in its input.  stride: the network's largest; sides are multiples of it.
        A batch's input has the aspect ratio of its least wide (or least tall) image; where both kinds meet, it is
        square.
        """
        ratios = sizes[:, 0] / sizes[:, 1]
        order = np.argsort(ratios, kind="stable")
        found = []
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            low, high = ratios[rows].min(), ratios[rows].max()
            factors = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
            height, width = (ceil(factor * longest / stride + self.margin) * stride for factor in factors)
            found.append((tuple(rows.tolist()), (height, width)))
        return found

    def frame(self, frame: Resize, longest: int) -> Letterbox:
        """The letterbox for these inputs: centred, the longer side `longest`, area interpolation where it shrinks.

        UsageError for a model whose images are stretched: it keeps no aspect ratio.
        """
        if not isinstance(frame, Letterbox):
            raise UsageError("This model stretches its images, so rectangles change nothing.", "Leave it away.")
        return replace(frame, anchor="centre", rounding="truncate", longest=longest, shrink="area")


def square_groups(rows: Sequence[int], size: tuple[int, int], batch: int) -> list[Group]:
    """Batches of `rows` in their order, all of one size."""
    return [(tuple(rows[start : start + batch]), size) for start in range(0, len(rows), batch)]
