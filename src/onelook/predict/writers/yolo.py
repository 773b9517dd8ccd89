"""The format "yolo": a text file of labels for each image."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import Output, file_name, write_text
from onelook.types import Detections


class Yolo:
    """`labels/NAME.txt`: a line `label cx cy w h score` a detection, in fractions of the image; `classes.txt`.

    Boxes are cut to the image. An image without detections gets an empty file.
    """

    needs_images: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self.folder = output.folder / "labels"
        self.written = [self.folder]
        if output.class_names:
            self.written.append(output.folder / "classes.txt")
            write_text(self.written[-1], "".join(f"{' '.join(name.split())}\n" for name in output.class_names))

    def add(self, item: PreparedImage, found: Detections) -> None:
        height, width = item.placement.source
        limits = np.array([width, height, width, height], np.float64)
        x1, y1, x2, y2 = (np.clip(found.boxes, 0, limits) / limits).T
        boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
        rows = zip(found.labels.tolist(), boxes.tolist(), found.scores.tolist())
        lines = [f"{label} {' '.join(f'{side:.6f}' for side in box)} {score:.6f}\n" for label, box, score in rows]
        write_text(self.folder / f"{file_name(item)}.txt", "".join(lines))

    def close(self) -> None: ...

    def discard(self) -> None: ...
