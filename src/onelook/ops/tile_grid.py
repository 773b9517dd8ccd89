"""Where the tiles of a large image are (slicing aided inference, Akyon et al., ICIP 2022, sec. 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from onelook.errors import UsageError

OVERLAP = 0.2
"""Share of a tile's side that neighbours have in common, unless another is given."""
SMALLEST, LARGEST = 32, 16384  # pixels of a tile's side
MOST_OVERLAP = 0.9
MOST_TILES = 20_000  # of an image


@dataclass(frozen=True)
class TileGrid:
    """Square tiles that cover an image, evenly spread.

    side: of the tiles, in pixels of the image.  overlap: least share of a side that neighbours have in common.

    Raises UsageError for a side or an overlap that cannot be used.
    """

    side: int = 640
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if not SMALLEST <= self.side <= LARGEST:
            raise UsageError(f"tile is {self.side}.", f"Give the side of a tile, {SMALLEST} to {LARGEST} pixels.")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise UsageError(f"overlap is {self.overlap:g}.", f"Give a share of a tile, 0 to {MOST_OVERLAP:g}.")

    def num_tiles(self, size: tuple[int, int]) -> int:
        """How many tiles an image of `size` (height, width) has. UsageError where they are too many."""
        tiles = math.prod(self._along(length) for length in size)
        if tiles > MOST_TILES:
            raise UsageError(
                f"An image of {size[1]} x {size[0]} pixels has {tiles:,} tiles of {self.side} pixels.",
                f"Choose larger tiles, or less overlap: at most {MOST_TILES:,} are used.",
            )
        return tiles

    def corners(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(top, left) of every tile of an image of `size` (height, width), row by row, evenly spread.

        A tile has `side` pixels in both directions, or the whole length of a shorter side of the image.
        """
        self.num_tiles(size)
        rows, columns = (
            np.linspace(0, max(length - self.side, 0), self._along(length)).round().astype(int).tolist()
            for length in size
        )
        return list(product(rows, columns))

    def _along(self, length: int) -> int:
        """How many tiles cover a length."""
        step = max(1, math.floor(self.side * (1 - self.overlap)))
        return max(0, math.ceil((length - self.side) / step)) + 1
