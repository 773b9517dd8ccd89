"""The format "crops": every detection cut out of its image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from onelook.draw import write_image
from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import Output, file_name
from onelook.types import Detections

_NO_FILE_NAME = re.compile(r'[\x00-\x1f<>:"/\\|?*]|^[. ]|[. ]$')


class Crops:
    """`crops/CLASS/NAME-1.jpg`, best detection first: the pixels of the box, cut to the image; JPEG of quality 95.

    A box that has no pixel inside the image is left out, and its number with it.
    """

    needs_images: ClassVar[bool] = True

    def __init__(self, output: Output) -> None:
        self._folder = output.folder / "crops"
        self.written: list[Path] = []

    def add(self, item: PreparedImage, found: Detections) -> None:
        image = item.image
        assert image is not None  # read with keep=True where something is cut out
        height, width = image.shape[:2]
        for number, (box, name) in enumerate(zip(found.boxes, found.names), 1):
            if not np.isfinite(box).all():
                continue
            x1, y1 = np.floor(np.clip(box[:2], 0, (width, height))).astype(int).tolist()
            x2, y2 = np.ceil(np.clip(box[2:], 0, (width, height))).astype(int).tolist()
            if x2 > x1 and y2 > y1:
                folder = self._folder / (_NO_FILE_NAME.sub("_", name) or "_")
                write_image(folder / f"{file_name(item)}-{number}.jpg", np.ascontiguousarray(image[y1:y2, x1:x2]), 95)
                self.written = [self._folder]

    def close(self) -> None: ...

    def discard(self) -> None: ...
