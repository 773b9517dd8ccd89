"""`onelook convert`: a data set in another format."""

from __future__ import annotations

from pathlib import Path

from onelook.api import convert as api
from onelook.cli.command_result import CommandResult
from onelook.cli.console_reporter import ConsoleReporter
from onelook.cli.views.convert import show_conversion
from onelook.data.convert import Conversion, WritableFormat
from onelook.data.tiling import VISIBLE
from onelook.ops.tile_grid import OVERLAP


def convert(
    data: str,
    /,
    *,
    to: WritableFormat,
    out: Path,
    copy: bool = False,
    shard_size: str | None = None,
    allow_size_mismatch: bool = False,
    tile: int | None = None,
    overlap: float = OVERLAP,
    visible: float = VISIBLE,
) -> CommandResult[Conversion]:
    """Write a data set in another format.

    All splits are written. What the target format cannot hold is counted and shown. Images are hard links to the
    originals, so they take no room; they are copied where links cannot be made, and into tar files (shards)
    and Parquet files.

    Examples:
        onelook convert VOC2007/ --to coco --out voc-as-coco/
        onelook convert coco/ --to shards --shard-size 1GB --out coco-shards/
        onelook convert coco/ --to parquet --out coco-parquet/
        onelook convert aerial/ --to coco --tile 640 --overlap 0.2 --out aerial-tiles/

    Args:
        data: folder, YAML file, COCO JSON or Parquet file, or URL or pattern of shards.
        to: the format to write.
        out: folder to make; it must not exist, or be empty.
        copy: copy the images in any case.
        shard_size: bytes of each file of --to shards and --to parquet, such as 500MB, which is the default.
        allow_size_mismatch: go on although images do not have their annotated sizes, with the boxes as annotated.
        tile: cut larger images, with their objects, into square tiles of so many pixels, which are new image files.
        overlap: share of a tile that neighbours have in common: an object up to this size is whole in a tile.
        visible: share of its box that a tile must show for an object to belong to it; the box is cut to the tile.
    """
    converted = api.convert(
        *(data, to, out),
        copy=copy,
        shard_size=shard_size,
        allow_size_mismatch=allow_size_mismatch,
        tile=tile,
        overlap=overlap,
        visible=visible,
        reporter=ConsoleReporter(),
    )
    return CommandResult(converted, show_conversion)
