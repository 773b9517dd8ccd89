"""What the writers of detections share: drawn images, and the end of a file that is not wanted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from onelook.draw import draw_detections, enlarge_small_image
from onelook.errors import UserError
from onelook.predict.sources import Framed
from onelook.types import Detections


def cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"'{path}' cannot be written: {error.strerror or error}.", "Choose another --out folder.")


class _Discarded(Exception):
    """Ends the writing of a file that is not wanted: its temporary file is removed."""


def discard(opened: contextlib.ExitStack) -> None:
    with contextlib.suppress(_Discarded, OSError), opened:  # closing may fail, too, where the disk is full
        raise _Discarded


def drawn(item: Framed, found: Detections) -> np.ndarray:
    assert item.image is not None  # read with keep=True where something is drawn
    image, factor = enlarge_small_image(item.image)
    return draw_detections(image, found.boxes * factor, found.scores, found.labels, found.names)
