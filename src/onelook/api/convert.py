"""`onelook.convert`: a data set in another format."""

from __future__ import annotations

from onelook.api.open import PathLike
from onelook.config import check_arguments
from onelook.data.convert import Conversion, WritableFormat
from onelook.data.convert import convert as convert_data
from onelook.reporter import Reporter


def convert(
    data: PathLike,
    to: WritableFormat,
    out: PathLike,
    *,
    copy: bool = False,
    shard_size: int | str | None = None,
    allow_size_mismatch: bool = False,
    reporter: Reporter | None = None,
) -> Conversion:
    """Writes all splits of a data set in another format, and counts what the format cannot hold.

    data: folder, YAML file, COCO JSON file, or URL or pattern of shards.  to: "coco", "yolo", "voc", "cvat", "labelme",
    "label_studio", "supervisely", "open_images", "csv" or "shards".  out: folder to make; it must not exist, or be
    empty.  copy: copies the images; else they are hard links, which take no
    room, where links can be made.  shard_size: bytes of a tar file of "shards", or a text; None is "500MB".
    allow_size_mismatch: go on although images do not have their annotated sizes, with the boxes as annotated.
    reporter: shows the progress; None prints plain lines on standard error.
    """
    check_arguments(convert, locals())
    return convert_data(
        str(data),
        to=to,
        out=str(out),
        copy=copy,
        shard_size=shard_size,
        allow_size_mismatch=allow_size_mismatch,
        reporter=reporter,
    )
