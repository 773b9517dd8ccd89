"""`onelook.convert`: a data set in another format."""

from __future__ import annotations

from onelook.api.open import PathLike
from onelook.config import check_arguments
from onelook.data.convert import Conversion, WritableFormat
from onelook.data.convert import convert as convert_data
from onelook.data.tiling import VISIBLE, Tiling
from onelook.errors import UsageError
from onelook.ops.tile_grid import OVERLAP, TileGrid
from onelook.reporter import Reporter


def convert(
    data: PathLike,
    to: WritableFormat,
    out: PathLike,
    *,
    copy: bool = False,
    shard_size: int | str | None = None,
    allow_size_mismatch: bool = False,
    tile: int | None = None,
    overlap: float = OVERLAP,
    visible: float = VISIBLE,
    reporter: Reporter | None = None,
) -> Conversion:
    """Writes all splits of a data set in another format, and counts what the format cannot hold.

    data: folder, YAML file, COCO JSON or Parquet file, or URL or pattern of shards.  to: "coco", "yolo", "voc", "cvat",
    "labelme", "label_studio", "supervisely", "open_images", "csv", "shards" or "parquet", which needs the extra of that
    name.  out: folder to make; it must not exist, or be empty.  copy: copies the images; else they are hard links,
    which take no room, where links can be made.  shard_size: bytes of a file of "shards" and "parquet", or a text; None
    is "500MB".
    allow_size_mismatch: go on although images do not have their annotated sizes, with the boxes as annotated.
    tile: cut larger images into square tiles of so many pixels, new image files.  overlap: least share of a tile that
    neighbours have in common.  visible: share of a box that a tile must show for the object to belong to it; its box
    is cut to the tile.  reporter: shows the progress; None prints plain lines on standard error.
    """
    check_arguments(convert, locals())
    return convert_data(
        str(data),
        to=to,
        out=str(out),
        copy=copy,
        shard_size=shard_size,
        allow_size_mismatch=allow_size_mismatch,
        tiling=_tiling(tile, overlap, visible),
        reporter=reporter,
    )


def _tiling(tile: int | None, overlap: float, visible: float) -> Tiling | None:
    if tile is not None:
        return Tiling(TileGrid(tile, overlap), visible)
    for name, value, usual in (("overlap", overlap, OVERLAP), ("visible", visible, VISIBLE)):
        if value != usual:
            raise UsageError(f"'{name}' is for tiles, and no side of them was given.", f"Add tile, or omit {name}.")
    return None
