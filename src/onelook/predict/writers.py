"""Detections into files: every format of `onelook detect`. Each file appears whole or not at all.

What grows with the number of images is written as it comes, beside its final name, and renamed when the writer is
closed: an interrupted run keeps what was done.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np

from onelook.draw import write_image
from onelook.errors import UsageError, did_you_mean
from onelook.files import open_replacing, write_bytes
from onelook.predict.sources import Framed
from onelook.predict.video_writer import Videos
from onelook.predict.writing import cannot_write, discard, drawn
from onelook.types import Detections

FORMATS = ("json", "images", "coco", "yolo", "csv", "video")


class Writer(Protocol):
    """One format. add: one image.  close: finishes its files.  discard: leaves none that is not whole."""

    def add(self, item: Framed, found: Detections) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...

    @property
    def written(self) -> list[Path]:
        """What was written: files, or the folder of many."""
        ...


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of a comma-separated list; UsageError for an unknown one, and for none."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in FORMATS:
            raise UsageError(
                f"There is no format '{name}'.{did_you_mean(name, FORMATS)}", f"Formats are {', '.join(FORMATS)}."
            )
    if not names:
        raise UsageError("No format was given.", f"Formats are {', '.join(FORMATS)}.")
    return names


class Writers:
    """The wanted formats together. A context manager: leaving it finishes the files, after an error discards them.

    KeyboardInterrupt finishes them: what was done is kept.
    """

    def __init__(self, folder: str | os.PathLike[str], formats: Sequence[str], class_names: Sequence[str]) -> None:
        self.folder = Path(folder)
        self._is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._writers = [_make(name, self.folder, formats, class_names) for name in formats]
        self.keeps_images = any(isinstance(writer, Images | Videos) for writer in self._writers)

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                writer.close()
            else:
                writer.discard()
        if self._is_new and kind is not None:
            with contextlib.suppress(OSError):  # it holds something
                self.folder.rmdir()

    def add(self, item: Framed, found: Detections) -> None:
        """One image's detections into every format."""
        for writer in self._writers:
            writer.add(item, found)

    @property
    def written(self) -> list[Path]:
        """All files and folders of files that were written."""
        return [path for writer in self._writers for path in writer.written]


def _make(name: str, folder: Path, formats: Sequence[str], class_names: Sequence[str]) -> Writer:
    match name:
        case "json":
            return Json(folder / "detections.json")
        case "images":
            return Images(folder / "images", frames="video" not in formats)
        case "coco":
            return Coco(folder, class_names)
        case "yolo":
            return Yolo(folder, class_names)
        case "csv":
            return Csv(folder / "detections.csv")
        case "video":
            return Videos(folder / "videos")
    raise ValueError(name)


class _Growing:
    """A text file that is written under a temporary name and gets its own when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = contextlib.ExitStack()
        try:
            # A file's name may hold bytes that are no text: they are written as \udc.., which JSON reads back as such.
            file = open_replacing(path, errors="backslashreplace", newline="")
            self.file: IO[str] = self._open.enter_context(file)
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, text: str) -> None:
        try:
            self.file.write(text)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        try:
            self._open.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def discard(self) -> None:
        discard(self._open)


class _JsonArray:
    """A JSON array written item by item, one a line."""

    def __init__(self, path: Path) -> None:
        self._file = _Growing(path)
        self._separator = "[\n"

    def add(self, item: Any) -> None:
        # allow_nan: boxes and scores are finite, and if one were not, a file that no program can read would be worse.
        self._file.write(self._separator + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"

    def close(self) -> None:
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()

    def discard(self) -> None:
        self._file.discard()


class Json:
    """`detections.json`: an array of images with their detections."""

    def __init__(self, path: Path) -> None:
        self._array = _JsonArray(path)
        self.written = [path]

    def add(self, item: Framed, found: Detections) -> None:
        self._array.add(found.to_dict())

    def close(self) -> None:
        self._array.close()

    def discard(self) -> None:
        self._array.discard()


class Coco:
    """`coco.json`: a COCO results file; `coco_images.json`: its images and categories.

    An image's id is the number that its file is called (as COCO's are), or else the next free one from 1. Categories
    are the model's labels.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.written = [folder / "coco.json", folder / "coco_images.json"]
        self._results = _JsonArray(self.written[0])
        self._images = _Growing(self.written[1])
        categories = [{"id": label, "name": name} for label, name in enumerate(class_names)]
        self._images.write('{"categories": ' + json.dumps(categories, ensure_ascii=False) + ',\n"images": [')
        self._separator = "\n"
        self._used: set[int] = set()
        self._next = 1

    def add(self, item: Framed, found: Detections) -> None:
        number = self._number(item)
        for entry in found.to_coco(number):
            self._results.add(entry)
        height, width = item.placement.source
        image = {"id": number, "file_name": item.source.path, "width": width, "height": height}
        if item.frame is not None:
            image["frame"] = item.frame
        self._images.write(self._separator + json.dumps(image, ensure_ascii=False))
        self._separator = ",\n"

    def _number(self, item: Framed) -> int:
        stem = Path(item.source.path).stem
        number = int(stem) if item.frame is None and stem.isdecimal() and len(stem) < 16 else 0
        if number == 0 or number in self._used:
            while self._next in self._used:
                self._next += 1
            number = self._next
        self._used.add(number)
        return number

    def close(self) -> None:
        self._results.close()
        self._images.write("\n]}\n")
        self._images.close()

    def discard(self) -> None:
        self._results.discard()
        self._images.discard()


class Yolo:
    """`labels/NAME.txt`: a line `label cx cy w h score` a detection, in fractions of the image; `classes.txt`.

    Boxes are cut to the image. An image without detections gets an empty file.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder / "labels"
        self.written = [self.folder]
        if class_names:
            self.written.append(folder / "classes.txt")
            _write_text(self.written[-1], "".join(f"{' '.join(name.split())}\n" for name in class_names))

    def add(self, item: Framed, found: Detections) -> None:
        height, width = item.placement.source
        limits = np.array([width, height, width, height], np.float64)
        x1, y1, x2, y2 = (np.clip(found.boxes, 0, limits) / limits).T
        boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
        rows = zip(found.labels.tolist(), boxes.tolist(), found.scores.tolist())
        lines = [f"{label} {' '.join(f'{side:.6f}' for side in box)} {score:.6f}\n" for label, box, score in rows]
        _write_text(self.folder / f"{_file_name(item)}.txt", "".join(lines))

    def close(self) -> None: ...

    def discard(self) -> None: ...


class Csv:
    """`detections.csv`: one row a detection."""

    def __init__(self, path: Path) -> None:
        self.written = [path]
        self._file = _Growing(path)
        self._rows = csv.writer(self._file.file, lineterminator="\n")
        self._rows.writerow(["source", "frame", "width", "height", "x1", "y1", "x2", "y2", "score", "label", "name"])

    def add(self, item: Framed, found: Detections) -> None:
        height, width = item.placement.source
        begin = [item.source.path, "" if item.frame is None else item.frame, width, height]
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.names)
        try:
            self._rows.writerows([*begin, *box, score, label, name] for box, score, label, name in rows)
        except OSError as error:
            raise cannot_write(self.written[0], error) from error

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.discard()


class Images:
    """`images/NAME.jpg`: the image with its detections; of videos every frame, or none where `frames` is False."""

    def __init__(self, folder: Path, frames: bool) -> None:
        self._folder, self._frames = folder, frames
        self.written: list[Path] = []

    def add(self, item: Framed, found: Detections) -> None:
        if item.frame is not None and not self._frames:
            return
        write_image(self._folder / f"{_file_name(item)}.jpg", drawn(item, found))
        self.written = [self._folder]

    def close(self) -> None: ...

    def discard(self) -> None: ...


def _file_name(item: Framed) -> str:
    return item.source.name if item.frame is None else f"{item.source.name}/{item.frame:06d}"


def _write_text(path: Path, text: str) -> None:
    try:
        write_bytes(path, text.encode("utf-8", "backslashreplace"), durable=False)
    except OSError as error:
        raise cannot_write(path, error) from error
