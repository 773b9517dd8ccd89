"""The format "images": images with their detections drawn."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from onelook.draw import write_image
from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import Output, drawn, file_name
from onelook.types import Detections


class Images:
    """`images/NAME.jpg`: the image with its detections; of videos every frame, unless "video" is written too."""

    needs_images: ClassVar[bool] = True

    def __init__(self, output: Output) -> None:
        self._output, self._folder = output, output.folder / "images"
        self._draws_frames = "video" not in output.formats
        self.written: list[Path] = []

    def add(self, item: PreparedImage, found: Detections) -> None:
        if item.frame is not None and not self._draws_frames:
            return
        write_image(self._folder / f"{file_name(item)}.jpg", drawn(item, found, self._output))
        self.written = [self._folder]

    def close(self) -> None: ...

    def discard(self) -> None: ...
