"""Writes detections to files: one module a format. Each file appears whole or not at all.

What grows with the number of images is written as it comes, under a temporary name, and renamed when the writer is
closed: an interrupted run keeps what was done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType

from onelook.errors import UsageError, did_you_mean
from onelook.predict.sources import PreparedImage
from onelook.predict.writers.coco import Coco
from onelook.predict.writers.csv import Csv
from onelook.predict.writers.files import Output, Writer, cannot_write
from onelook.predict.writers.images import Images
from onelook.predict.writers.json import Json
from onelook.predict.writers.mot import Mot
from onelook.predict.writers.videos import Videos
from onelook.predict.writers.yolo import Yolo
from onelook.types import Detections

# Every format by its name.
WRITERS: Mapping[str, Callable[[Output], Writer]] = MappingProxyType(
    {"json": Json, "images": Images, "coco": Coco, "yolo": Yolo, "csv": Csv, "video": Videos, "mot": Mot}
)


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of a comma-separated list; UsageError for an unknown one, and for none."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in WRITERS:
            raise UsageError(
                f"There is no format '{name}'.{did_you_mean(name, WRITERS)}", f"Formats are {', '.join(WRITERS)}."
            )
    if not names:
        raise UsageError("No format was given.", f"Formats are {', '.join(WRITERS)}.")
    return names


class Writers:
    """Writes several formats. A context manager: leaving it finishes the files, after an error discards them.

    KeyboardInterrupt finishes them: what was done is kept.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        formats: Sequence[str],
        class_names: Sequence[str],
        *,
        tracked: bool = False,
        sound: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self._is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        output = Output(self.folder, formats, class_names, tracked, sound)
        self._writers = [WRITERS[name](output) for name in formats]
        self.keeps_images = any(writer.needs_images for writer in self._writers)

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

    def add(self, item: PreparedImage, found: Detections) -> None:
        """Writes the detections of one image in every format."""
        for writer in self._writers:
            writer.add(item, found)

    @property
    def notes(self) -> list[str]:
        """What there is to know of what was written."""
        return [note for writer in self._writers if isinstance(writer, Videos) for note in writer.notes]

    @property
    def written(self) -> list[Path]:
        """All files and folders of files that were written."""
        return [path for writer in self._writers for path in writer.written]
