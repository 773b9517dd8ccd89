"""Large images: cut into tiles that overlap, with the whole image beside, and the detections merged.

Slicing aided inference (Akyon et al., ICIP 2022, sec. 3). A tile is cut when its batch is run, so that memory holds the
image and one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from onelook.augment.letterbox import Resize, ResizeTransform
from onelook.errors import ImageError, UsageError
from onelook.ops.merge import MergeKind, merge_detections
from onelook.ops.nms import Nms, Postprocess
from onelook.ops.tile_grid import OVERLAP, TileGrid
from onelook.predict.sources import PreparedImage, UnreadableSource
from onelook.types import Detections

MERGE: MergeKind = "nmm"
"""How the detections of tiles are merged, unless another way is given."""
_AT_BORDER = 0.02  # of a tile's side: boxes of cut objects end a little before or behind the border

PreparedView = tuple[np.ndarray, ResizeTransform]
"""(H, W, 3) uint8 of the network's input size, and its transform from pixels of the whole image."""


@dataclass(frozen=True)
class Tiles(TileGrid):
    """How large images are cut: `cut` makes the inputs of the network, `merge` one result of its detections.

    side, overlap: see `TileGrid`.  merge_kind: how detections are merged; see `ops.merge`.  threshold: shared part of
    the smaller box above which two boxes are one object.

    An image that fits into one tile is not cut: its detections are those without tiles. Raises UsageError for a side or
    an overlap that cannot be used.
    """

    merge_kind: MergeKind = MERGE
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merge_kind not in get_args(MergeKind):
            raise UsageError(f"There is no merging '{self.merge_kind}'.", f"Known: {', '.join(get_args(MergeKind))}.")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold is {self.threshold:g}.", "Give a share of a box, 0 to 1.")

    def count(self, size: tuple[int, int]) -> int:
        """How many inputs of the network an image of `size` (height, width) is: tiles, and the whole; or 1, uncut.

        UsageError where they are too many.
        """
        tiles = self.num_tiles(size)
        return tiles + 1 if tiles > 1 else 1

    def cut(self, image: np.ndarray, frame: Resize, size: tuple[int, int]) -> Iterator[PreparedView]:
        """The inputs of the network, of `size`: the whole image first, then each tile."""
        yield frame(image, size)
        corners = self.corners((image.shape[0], image.shape[1]))
        for top, left in corners if len(corners) > 1 else ():
            tile = np.ascontiguousarray(image[top : top + self.side, left : left + self.side])
            pixels, placement = frame(tile, size)
            yield pixels, _moved(placement, top, left, (image.shape[0], image.shape[1]))

    def merge(self, found: Sequence[Detections], postprocess: Postprocess) -> Detections:
        """The detections of one image from those of all its inputs, in the order of `cut` and pixels of the image."""
        if len(found) == 1:
            return found[0]
        agnostic = getattr(postprocess, "agnostic", False) is True
        views = [(one.boxes, one.scores, one.labels) for one in found]
        cut = [np.zeros(len(found[0]), bool), *map(self._cut_boxes, found[1:], self.corners(found[0].size or (0, 0)))]
        boxes, scores, labels = merge_detections(views, self.merge_kind, self.threshold, cut=cut, agnostic=agnostic)
        kept = slice(postprocess.limit if isinstance(postprocess, Nms) else None)
        return replace(found[0], boxes=boxes[kept], scores=scores[kept], labels=labels[kept])

    def _cut_boxes(self, found: Detections, corner: tuple[int, int]) -> np.ndarray:
        """(K,) whether boxes reach a border of the tile at `corner` (top, left) that is inside the image."""
        assert found.size is not None  # of the image
        margin = _AT_BORDER * self.side
        cut = np.zeros(len(found), bool)
        for axis, (start, length) in enumerate(zip(corner[::-1], found.size[::-1])):
            low, high = found.boxes[:, axis], found.boxes[:, axis + 2]
            cut |= (low <= start + margin) & (start > 0)
            cut |= (high >= start + self.side - margin) & (start + self.side < length)
        return cut


def chosen_tiles(tile: int | None, overlap: float, merge_kind: MergeKind) -> Tiles | None:
    """The tiles of a caller's settings; None where no side was given: UsageError for other settings of tiles then."""
    if tile is not None:
        return Tiles(tile, overlap, merge_kind)
    for name, value, usual in (("overlap", overlap, OVERLAP), ("tile_merge", merge_kind, MERGE)):
        if value != usual:
            raise UsageError(
                f"'{name}' is for tiles, and no side of them was given.", f"Add tile, or leave {name} out."
            )
    return None


def without_too_many_tiles(
    item: PreparedImage | UnreadableSource, tiles: Tiles | None
) -> PreparedImage | UnreadableSource:
    """The item; of an image of too many tiles among others, why it is left out, so that these are not lost."""
    if tiles is None or not isinstance(item, PreparedImage) or item.frame is not None or item.source.alone:
        return item
    try:
        tiles.count(item.placement.source)
    except UsageError as error:
        reason = ImageError(f"'{item.source.path}' was left out. {error.message}", error.remedy)
        return UnreadableSource(item.source, reason)
    return item


def _moved(placement: ResizeTransform, top: int, left: int, source: tuple[int, int]) -> ResizeTransform:
    """The transform of a tile as one of the whole image of `source` (height, width)."""
    return replace(
        placement,
        left=placement.left - left * placement.scale_x,
        top=placement.top - top * placement.scale_y,
        source=source,
    )
