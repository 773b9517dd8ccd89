"""`onelook.split`: divides a data set among train, val and test."""

from __future__ import annotations

import os

from onelook.api.open import PathLike
from onelook.config import check_arguments
from onelook.data.convert import WritableFormat
from onelook.data.splitting import SplitResult
from onelook.data.splitting import split as split_data
from onelook.reporter import Reporter


def split(
    data: PathLike,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    anew: bool = False,
    out: PathLike | None = None,
    to: WritableFormat | None = None,
    copy: bool = False,
    reporter: Reporter | None = None,
) -> SplitResult:
    """Divides a data set among train, val and test: classes in equal shares, similar images on one side.

    Near-duplicates, the frames of a sequence (by running numbers in file names), and augmented copies of an image stay
    on one side. The result is a folder with lists of images and a `data.yaml`, which is a data set itself; no image is
    copied.

    data: a data set in any format; of one that is divided already only train, where the splits to make are missing.
    val, test: shares of the images, 0 for none.  seed: the same one divides the same images equally.  anew: divide all
    images, although the data set is divided.  out: folder to make; None is NAME-split in the working folder.  to: write
    a data set of this format there instead, of hard links to the images.  copy: with `to`, copy the images.  reporter:
    shows the progress; None prints plain lines on standard error.

    Raises UserError for fractions that leave no image, a data set that is divided already, and one that cannot be read.
    """
    check_arguments(split, locals())
    return split_data(
        os.fspath(data),
        val=val,
        test=test,
        seed=seed,
        anew=anew,
        out=None if out is None else os.fspath(out),
        to=to,
        copy=copy,
        reporter=reporter,
    )
