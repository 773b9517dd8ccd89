"""The format "csv": a table of all detections."""

from __future__ import annotations

import csv
from typing import ClassVar

from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import GrowingFile, Output, cannot_write
from onelook.types import Detections


class Csv:
    """`detections.csv`: one row a detection; with tracking, the last column is its track."""

    needs_images: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self.written = [output.folder / "detections.csv"]
        self._file = GrowingFile(self.written[0])
        self._rows = csv.writer(self._file.file, lineterminator="\n")
        columns = ["source", "frame", "width", "height", "x1", "y1", "x2", "y2", "score", "label", "name"]
        self._rows.writerow([*columns, "track"] if output.tracked else columns)

    def add(self, item: PreparedImage, found: Detections) -> None:
        height, width = item.placement.source
        begin = [item.source.path, "" if item.frame is None else item.frame, width, height]
        tracks = [()] * len(found) if found.tracks is None else [(track,) for track in found.tracks.tolist()]
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, tracks)
        try:
            self._rows.writerows([*begin, *box, score, label, name, *track] for box, score, label, name, track in rows)
        except OSError as error:
            raise cannot_write(self.written[0], error) from error

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.discard()
