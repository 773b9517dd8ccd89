"""The format "coco": COCO results files, and the images that they are of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import GrowingFile, Output
from onelook.types import Detections


def results_lines(detections: Iterable[tuple[int, int, Sequence[float], float]]) -> str:
    """The entries of a COCO results file, one a line, without the brackets around them.

    detections: of each the image id, the category id, [x, y, width, height] in pixels, and the score.
    """
    line = '{"image_id": %d, "category_id": %d, "bbox": [%r, %r, %r, %r], "score": %r}'
    return ",\n".join(line % (image, category, *box, score) for image, category, box, score in detections)


class Coco:
    """`coco.json`: a COCO results file; `coco_images.json`: its images and categories.

    An image's id is the number that its file is called (as COCO's are), or else the next free one from 1. Categories
    are the model's labels.
    """

    needs_images: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self.written = [output.folder / "coco.json", output.folder / "coco_images.json"]
        self._results = GrowingFile(self.written[0])
        self._results.write("[")
        self._is_first = True
        self._images = GrowingFile(self.written[1])
        categories = [{"id": label, "name": name} for label, name in enumerate(output.class_names)]
        self._images.write('{"categories": ' + json.dumps(categories, ensure_ascii=False) + ',\n"images": [')
        self._separator = "\n"
        self._used: set[int] = set()
        self._next = 1

    def add(self, item: PreparedImage, found: Detections) -> None:
        number = self._number(item)
        if len(found):
            entries = found.to_coco(number)
            self._results.write("\n" if self._is_first else ",\n")
            self._results.write(results_lines((number, e["category_id"], e["bbox"], e["score"]) for e in entries))
            self._is_first = False
        height, width = item.placement.source
        image = {"id": number, "file_name": item.source.path, "width": width, "height": height}
        if item.frame is not None:
            image["frame"] = item.frame
        self._images.write(self._separator + json.dumps(image, ensure_ascii=False))
        self._separator = ",\n"

    def _number(self, item: PreparedImage) -> int:
        stem = Path(item.source.path).stem
        number = int(stem) if item.frame is None and stem.isdecimal() and len(stem) < 16 else 0
        if number == 0 or number in self._used:
            while self._next in self._used:
                self._next += 1
            number = self._next
        self._used.add(number)
        return number

    def close(self) -> None:
        self._results.write("\n]\n")
        self._results.close()
        self._images.write("\n]}\n")
        self._images.close()

    def discard(self) -> None:
        self._results.discard()
        self._images.discard()
