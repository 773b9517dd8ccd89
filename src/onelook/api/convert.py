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
    allow_size_mismatch: bool = False,
    reporter: Reporter | None = None,
) -> Conversion:
    """Writes all splits of a data set in another format, and counts what the format cannot hold.

    data: folder, YAML file or COCO JSON file.  to: "coco", "yolo" or "voc".  out: folder to make; it must not exist,
    or be empty.  copy: copies the images; else they are hard links, which take no room, where links can be made.
    allow_size_mismatch: go on although images do not have their annotated sizes, with the boxes as annotated.
    reporter: shows the progress; None prints plain lines on standard error.
    """
    check_arguments(convert, locals())
    return convert_data(
        str(data), to=to, out=str(out), copy=copy, allow_size_mismatch=allow_size_mismatch, reporter=reporter
    )
