"""The format "json": one entry for each image."""

from __future__ import annotations

import json
from typing import ClassVar

from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import GrowingFile, Output
from onelook.types import Detections


class Json:
    """`detections.json`: an array of images with their detections."""

    needs_images: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self.written = [output.folder / "detections.json"]
        self._file = GrowingFile(self.written[0])
        self._separator = "[\n"

    def add(self, item: PreparedImage, found: Detections) -> None:
        # allow_nan: boxes and scores are finite, and if one were not, a file that no program can read would be worse.
        self._file.write(self._separator + json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"

    def close(self) -> None:
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()

    def discard(self) -> None:
        self._file.discard()
