"""Whether images have the size that their annotations name: where not, every box lies in another frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onelook.data.index import MEASURED
from onelook.data.members import image_file
from onelook.data.sizes import image_sizes
from onelook.data.split import Dataset
from onelook.errors import DataError, ImageError
from onelook.files import open_replacing
from onelook.reporter import Reporter

SAMPLE = 64  # images whose headers are read each time; all are once for each index
SHOWN = 3
REMEDY = "Annotate the images as they are displayed, or correct the sizes."


@dataclass(frozen=True)
class Misfit:
    """An image whose displayed size (height, width) is not the annotated one."""

    path: str
    found: tuple[int, int]
    annotated: tuple[int, int]

    def __str__(self) -> str:
        found, annotated = (f"{size[1]} x {size[0]}" for size in (self.found, self.annotated))
        turned = self.annotated == self.found[::-1]
        hint = " (turned by its EXIF orientation, or height and width exchanged)" if turned else ""
        return f"'{self.path}' is {found} pixels, but annotated as {annotated}{hint}"


def check_annotated_sizes(dataset: Dataset, reporter: Reporter, *, allow: bool = False) -> None:
    """Raises DataError where images of a split do not have their annotated sizes, naming some of them.

    The headers of all images are read once for an index, and of a sample each time: that all of them agree is noted in
    a file beside the index. Images that are missing or damaged are left out.

    allow: warn instead, and go on with the boxes as they are annotated.
    """
    rows = np.unique([dataset.row(i) for i in range(len(dataset))]) if dataset.rows is not None else None
    known = np.flatnonzero((dataset.index.image_flags & MEASURED) == 0)
    if rows is not None:
        known = np.intersect1d(rows, known)
    mark = _mark(dataset) if rows is None else None
    whole = rows is None and not _is_marked(mark, dataset)
    if not whole:
        known = known[np.unique(np.linspace(0, len(known) - 1, min(SAMPLE, len(known))).astype(int))]
    if not len(known):
        return
    found = list(_misfits(dataset, known, reporter))
    if not found:
        if whole and mark is not None:
            _write(mark, dataset.index.digest)
        return
    count = f"{len(found)} of {len(known)} images" + ("" if whole else " looked at")
    shown = "; ".join(map(str, found[:SHOWN])) + ("; ..." if len(found) > SHOWN else "")
    message = f"{count} of '{dataset.described_by}', split '{dataset.split}', have another size: {shown}."
    if allow:
        reporter.warning(message + " Their boxes are used as they are annotated.")
        return
    raise DataError(message, REMEDY + " If the boxes are right all the same, allow it: --allow-size-mismatch.")


def _misfits(dataset: Dataset, rows: np.ndarray, reporter: Reporter) -> Iterator[Misfit]:
    index = dataset.index
    paths = [image_file(index, row, dataset.root, dataset.shards) for row in rows.tolist()]
    with reporter.progress("Comparing the images' sizes") as progress:
        sizes = image_sizes(paths, progress)
    for path, size, annotated in zip(paths, sizes, index.sizes[rows].tolist()):
        if not isinstance(size, ImageError) and list(size) != annotated:
            yield Misfit(str(path), size, (annotated[0], annotated[1]))


def _mark(dataset: Dataset) -> Path | None:
    """The file that says that all images were compared; None where the index is in memory."""
    path = dataset.index.path
    return None if path is None else path.with_suffix(".sizes")


def _is_marked(mark: Path | None, dataset: Dataset) -> bool:
    try:
        return mark is not None and mark.read_text(encoding="ascii") == dataset.index.digest
    except (OSError, ValueError):
        return False


def _write(mark: Path, digest: str) -> None:
    try:
        with open_replacing(mark) as file:
            file.write(digest)
    except OSError:
        return  # the next start compares them again
