"""Checks the boxes of a split, all at once."""

from __future__ import annotations

import numpy as np

from onelook.data.boxes import SLACK, clean_boxes, reach_beyond
from onelook.data.formats.base import ReadSplit
from onelook.data.index import CROWD
from onelook.data.problems import Problems

MOSTLY = 0.3  # the share of boxes that must look like another unit before all are suspected
ENOUGH = 5  # boxes: fewer are single faults
_FIX = "Correct the box, or remove it."


def check_boxes(part: ReadSplit, problems: Problems) -> None:
    """Reports boxes without area, outside of their image, given twice, or in a wrong unit.

    A box that training and val leave out, or cut, is a warning; a split of which they leave out every box is an error.
    """
    index = part.index
    if not len(index.labels):
        return
    rows = np.repeat(np.arange(len(index)), np.diff(index.object_offsets))
    sizes = index.sizes[rows].astype(np.float64)
    height, width = sizes[:, 0], sizes[:, 1]
    known = (height > 0) & (width > 0)
    empty = (index.boxes[:, 2:] <= 0).any(axis=1)
    outside = known & ~clean_boxes(index.boxes, height, width)[1] & ~empty
    beyond = known & reach_beyond(index.boxes, height, width, SLACK) & ~outside & ~empty
    suspicion = _other_unit(part, known, outside | beyond)
    if suspicion:
        file = part.annotation_file(int(rows[0]))
        problems.error("box-units", *suspicion, file=file)
    for code, which, text in (
        ("box-degenerate", empty, "has no area; training and val leave it out"),
        ("box-outside", outside, "lies outside of its image; training and val leave it out"),
        ("box-beyond-image", beyond, "reaches beyond its image; training and val use the part inside"),
    ):
        for thing in np.flatnonzero(which).tolist():
            message = f"The box {_shown(part, thing, rows)} {text}."
            problems.warning(code, message, _FIX, **part.place(rows[thing], thing))
    single = (index.object_flags & CROWD) == 0
    if single.any() and (outside | empty)[single].all():
        message = (
            f"Every box of the split '{part.split}' lies outside of its image or has no area: nothing can be learnt."
        )
        remedy = "Compare the boxes with the sizes of the images: they may have another unit."
        file = str(part.source.parts[part.split].annotations or part.source.described_by)
        problems.error("no-usable-boxes", message, remedy, file=file)
    _repeated(part, rows, problems)


def _shown(part: ReadSplit, thing: int, rows: np.ndarray) -> str:
    index = part.index
    left, top, width, height = (f"{value:g}" for value in index.boxes[thing].tolist())
    image_height, image_width = index.sizes[rows[thing]].tolist()
    name = part.names[int(index.labels[thing])]
    return (
        f"of '{name[:60]}' (left {left}, top {top}, width {width}, height {height}) "
        f"in '{index.name(int(rows[thing]))}' ({image_width} x {image_height})"
    )


def _other_unit(part: ReadSplit, known: np.ndarray, wrong: np.ndarray) -> tuple[str, str] | None:
    """(message, remedy) where most boxes make sense in another unit only."""
    boxes = part.index.boxes
    # A box of 1 x 1 pixel in the corner alone is no sign of fractions: one value has to be between 0 and 1.
    lengths = boxes[:, 2:]
    fractions = ((boxes > -1) & (boxes <= 1)).all() and ((lengths > 0) & (lengths < 1)).any()
    if part.source.format.in_pixels and fractions:
        return "All boxes lie within 0 to 1, so they seem to be fractions.", "This format gives boxes in pixels."
    if wrong.mean() <= MOSTLY or wrong.sum() < ENOUGH:
        return None
    fit, remedy = part.source.format.wrong_unit(part, known)
    return f"{100 * wrong.mean():.0f} % of the boxes reach out of their images{fit}.", remedy


def _repeated(part: ReadSplit, rows: np.ndarray, problems: Problems) -> None:
    index = part.index
    table = np.column_stack([rows, index.labels, index.object_flags & CROWD, index.boxes])
    order = np.lexsort(table.T[::-1])
    same = (table[order][1:] == table[order][:-1]).all(axis=1)
    for thing in sorted(order[1:][same].tolist()):
        message = f"The box {_shown(part, thing, rows)} is given twice."
        problems.warning("box-duplicate", message, "Remove one of the two.", **part.place(rows[thing], thing))
