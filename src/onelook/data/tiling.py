"""Cuts the large images of a data set into tiles, with their objects, for trainings whose input is smaller."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np

from onelook.data.arrays import take_rows, with_image_names
from onelook.data.boxes import cut_outline
from onelook.data.building import empty_arrays, lay_out_rings
from onelook.data.index import LAZY, SCHEMA, TRUNCATED, Index, index_in_memory
from onelook.data.members import ImageFile
from onelook.data.split import Dataset
from onelook.draw import write_image
from onelook.errors import UsageError
from onelook.ops.tile_grid import TileGrid
from onelook.reporter import Progress

VISIBLE = 0.5
"""Share of a box that is in a tile from which on the object belongs to it, unless another is given."""
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Tiling:
    """How a data set is cut into tiles.

    grid: where the tiles of an image are.  visible: least share of a box's area in a tile for which the object belongs
    to the tile, with its box cut; above 0, at most 1. A crowd belongs to every tile that it reaches.

    An object can belong to several tiles, since they overlap. Raises UsageError for another share.
    """

    grid: TileGrid
    visible: float = VISIBLE

    def __post_init__(self) -> None:
        if not 0 < self.visible <= 1:
            raise UsageError(f"visible is {self.visible:g}.", "Give a share of a box, above 0 and at most 1.")


def box_shares(boxes: np.ndarray, tile: Sequence[int]) -> np.ndarray:
    """(M,) the share of each box's area that is in a tile; exactly 1 where all of it is.

    boxes: (M, 4) left, top, width, height, with an area.  tile: xyxy.
    """
    low, high = np.array(tile[:2], np.float64), np.array(tile[2:], np.float64)
    corners = boxes[:, :2] + boxes[:, 2:]
    sides = np.maximum(np.minimum(corners, high) - np.maximum(boxes[:, :2], low), 0)
    whole = (boxes[:, :2] >= low).all(axis=1) & (corners <= high).all(axis=1)
    return np.where(whole, 1.0, np.minimum((sides / boxes[:, 2:]).prod(axis=1), np.nextafter(1, 0)))


@dataclass
class TileCounts:
    """What became of the images and objects of a split.

    images: that were cut.  tiles: made of them.  empty: of these, without objects.  objects: of the images that were
    cut.  placed: these objects in all tiles together.  cut: of these, cut by a tile's border.  lost: in no tile.
    extras: splits whose objects had further fields.
    """

    images: int = 0
    tiles: int = 0
    empty: int = 0
    objects: int = 0
    placed: int = 0
    cut: int = 0
    lost: int = 0
    extras: int = 0

    def __add__(self, other: TileCounts) -> TileCounts:
        return TileCounts(*(own + more for own, more in zip(astuple(self), astuple(other))))

    def notes(self, tiling: Tiling) -> list[str]:
        """The counts in words."""
        tile = f"{tiling.grid.side} x {tiling.grid.side} pixels"
        if not self.images:
            return [f"no image is larger than a tile of {tile}: none was cut"]
        share = f"{tiling.visible:.0%}"
        notes = [
            f"{self.images:,} images were cut into {self.tiles:,} tiles of at most {tile}, {self.empty:,} of them "
            "without objects",
            f"their {self.objects:,} objects are {self.placed:,} in the tiles, which overlap; of {self.cut:,} of these "
            f"a border cuts off a part, at most {1 - tiling.visible:.0%} of the box",
        ]
        if self.lost:
            notes.append(f"{self.lost:,} objects are in no tile, as none shows {share} of their boxes")
        if self.extras:
            notes.append("further fields of the objects were left out: they may name places in the whole image")
        return notes


def cut_into_tiles(
    dataset: Dataset,
    tiling: Tiling,
    names: Sequence[str],
    folder: Path,
    *,
    keep: Callable[[ImageFile, Path], object],
    progress: Progress,
) -> tuple[Dataset, TileCounts]:
    """The tiles of a split as a data set whose images are files in a folder, and what became of images and objects.

    names: of the images, relative to the folder, in order; that of a tile ends with its top and left.  keep: puts an
    image that fits into one tile into the folder; the others are decoded, one at a time. Tiles of JPEG files are JPEG
    files, others PNG.

    The boxes must lie in their images and have an area. Raises `ImageError` for images that cannot be decoded.
    """
    made = _Tiles(dataset, tiling, folder)
    for i, name in enumerate(names):
        height, width = dataset.sizes[i].tolist()
        if tiling.grid.num_tiles((height, width)) > 1:
            made.cut(i, name)
        else:
            made.add(i, name, (0, 0, height, width))
            keep(dataset.image_file(i), folder / made.names[-1])
        progress(i + 1, len(names))
    tiles = replace(dataset, index=made.index(), root=folder, annotations=None, has_ids=False)
    return replace(tiles, shards=(), rows=None, relabel=None), made.counts


@dataclass
class _Tiles:
    """The tiles that were made, whose files are in `folder`.

    rows, places, names: of each tile the row of its image, its top, left, height and width, and its file.  objects:
    (row of the object, tile, share of the box that is in it) of each.
    """

    dataset: Dataset
    tiling: Tiling
    folder: Path
    counts: TileCounts = field(default_factory=TileCounts)
    rows: list[int] = field(default_factory=list)
    places: list[tuple[int, int, int, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    objects: list[tuple[int, int, float]] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def add(self, i: int, name: str, place: tuple[int, int, int, int]) -> None:
        """Appends a tile of image `i` with its objects. name: of its file, which gets a number where it is taken."""
        top, left, height, width = place
        span = self.dataset.span(i)
        shares = box_shares(self.dataset.index.boxes[span], (left, top, left + width, top + height))
        chosen = np.flatnonzero((shares >= self.tiling.visible) | ((shares > 0) & self.dataset.crowd(i)))
        tile = len(self.rows)
        self.objects += [(span.start + k, tile, share) for k, share in zip(chosen.tolist(), shares[chosen].tolist())]
        self.rows.append(self.dataset.row(i))
        self.places.append(place)
        stem, ending = os.path.splitext(name)
        number = 1
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        self._taken.add(name.lower())
        self.names.append(name)

    def cut(self, i: int, name: str) -> None:
        """Appends all tiles of image `i`, and writes and counts them. name: of the image."""
        image, side, first = self.dataset.image(i), self.tiling.grid.side, len(self.objects)
        corners = self.tiling.grid.corners((image.shape[0], image.shape[1]))
        stem, ending = os.path.splitext(name)
        ending = ending if ending.lower() in (".jpg", ".jpeg") else ".png"
        for top, left in corners:
            tile = image[top : top + side, left : left + side]
            self.add(i, f"{stem}_{top}_{left}{ending}", (top, left, tile.shape[0], tile.shape[1]))
            write_image(self.folder / self.names[-1], tile, quality=_JPEG_QUALITY)
        new, objects = self.objects[first:], int(self.dataset.num_objects[i])
        self.counts += TileCounts(
            images=1,
            tiles=len(corners),
            empty=len(corners) - len({tile for _, tile, _ in new}),
            objects=objects,
            placed=len(new),
            cut=sum(share < 1 for *_, share in new),
            lost=objects - len({row for row, *_ in new}),
        )

    def index(self) -> Index:
        """The index of the tiles, whose labels are those of the data set."""
        dataset, index = self.dataset, self.dataset.index
        rows, tiles = (np.array([one[k] for one in self.objects], np.int64) for k in (0, 1))
        shares = np.array([share for *_, share in self.objects], np.float64)
        places = np.array(self.places, np.int64).reshape(-1, 4)
        offsets = np.concatenate(([0], np.cumsum(np.bincount(tiles, minlength=len(places)))))
        arrays = {name: index.lazy(name) if name in LAZY else getattr(index, name) for name in SCHEMA}
        outlines = _moved_outlines(index, rows, places[tiles])
        arrays |= empty_arrays("member_places", "object_extra_offsets", "object_extra_bytes", *outlines)
        self.counts.extras = int(len(index.lazy("object_extra_offsets")) > 0)
        arrays = take_rows(arrays, np.array(self.rows, np.int64), rows, offsets)
        arrays = with_image_names(arrays, self.names) | outlines
        corners, sizes = places[tiles][:, 1::-1], places[tiles][:, :1:-1]
        boxes = arrays["boxes"]
        start = np.clip(boxes[:, :2] - corners, 0, sizes)
        stop = np.clip(boxes[:, :2] + boxes[:, 2:] - corners, 0, sizes)
        arrays |= {
            "image_ids": np.arange(1, len(places) + 1),
            "sizes": places[:, 2:],
            "annotation_ids": np.arange(1, len(rows) + 1),
            "boxes": np.concatenate((start, stop - start), axis=1),
            "areas": arrays["areas"] * shares,
            "object_flags": arrays["object_flags"] | np.where(shares < 1, TRUNCATED, 0).astype(np.uint8),
        }
        if dataset.relabel is not None:
            arrays["labels"] = dataset.relabel[arrays["labels"]]
        meta = {**index.meta, "names": list(dataset.names), "category_ids": list(dataset.category_ids)}
        return index_in_memory(arrays, meta)


def _moved_outlines(index: Index, rows: np.ndarray, places: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the outlines of objects in tiles (top, left, height, width), cut to them."""
    if not len(index.lazy("ring_offsets")):
        return empty_arrays("ring_offsets", "ring_spans", "points")
    moved = (
        (cut_outline(ring - (left, top), height, width) for ring in index.rings(row))
        for row, (top, left, height, width) in zip(rows.tolist(), places.tolist())
    )
    return lay_out_rings((ring for ring in rings if len(ring) > 2) for rings in moved)
