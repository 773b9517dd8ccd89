"""Writes detections to files: one module a format. Each file appears whole or not at all.

What grows with the number of images is written as it comes, under a temporary name, and renamed when the writer is
closed: an interrupted run keeps what was done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from onelook.errors import UsageError, did_you_mean
from onelook.named import import_named
from onelook.predict.sources import PreparedImage, Source, UnreadableSource
from onelook.predict.writers.files import Output, Writer, cannot_write
from onelook.predict.writers.journal import LINES, RECORD, Journal, has_results
from onelook.types import Detections

# Every format by its name: module and class of its writer, imported where the format is asked for.
WRITERS: Mapping[str, str] = MappingProxyType(
    {
        "json": "onelook.predict.writers.json:Json",
        "images": "onelook.predict.writers.images:Images",
        "coco": "onelook.predict.writers.coco:Coco",
        "yolo": "onelook.predict.writers.yolo:Yolo",
        "csv": "onelook.predict.writers.csv:Csv",
        "video": "onelook.predict.writers.videos:Videos",
        "mot": "onelook.predict.writers.mot:Mot",
        "crops": "onelook.predict.writers.crops:Crops",
    }
)
_ONE_FILE = ("json", "coco", "csv")  # formats whose files grow with every image; the others have files of each


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


def writer_of(name: str) -> Callable[[Output], Writer]:
    """The class of a format's writer."""
    found: Callable[[Output], Writer] = import_named(WRITERS[name])
    return found


# What `detect` may write into its folder.
RESULTS = (
    *(LINES, RECORD, "detections.json", "detections.csv", "coco.json", "coco_images.json", "classes.txt"),
    *("live.jsonl", "images", "labels", "crops", "videos", "tracks"),
)


@dataclass(frozen=True)
class Start:
    """How writing begins. settings: what the detection was started with, as plain data, for its record.

    resume: continue the results in the folder, which must have been made with these settings.  overwrite: replace what
    is there; without either, UsageError where the folder holds results.
    """

    settings: Mapping[str, Any]
    resume: bool = False
    overwrite: bool = False


class Writers:
    """Writes several formats, and the journal.

    A context manager: leaving it finishes the files, also after KeyboardInterrupt; after an error it discards them,
    except for the journal.
    """

    def __init__(self, output: Output, start: Start) -> None:
        self.folder = output.folder
        self._is_new = not self.folder.exists()
        if not (start.resume or start.overwrite) and (name := has_results(self.folder, RESULTS)):
            raise UsageError(
                f"'{self.folder}' holds results already: '{name}'.",
                "Continue them (resume), replace them (overwrite), or choose another folder (out).",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._journal = Journal(self.folder, start.settings, resume=start.resume)
        self._writers = [(name, writer_of(name)(output)) for name in output.formats]
        self.keeps_images = any(writer.needs_images for _, writer in self._writers)
        self._is_finished = False

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, writer in self._writers:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                writer.close()
            else:
                writer.discard()
        self._journal.close(finished=self._is_finished)
        if self._is_new and kind is not None:
            with contextlib.suppress(OSError):  # it holds something
                self.folder.rmdir()

    def left(self, sources: list[Source]) -> list[Source]:
        """The sources that an earlier run, which is resumed, has not done."""
        return self._journal.left(sources)

    def restore(self, sources: list[Source]) -> Iterator[tuple[PreparedImage, Detections]]:
        """What an earlier run has done, written again in the formats that are one file for all images."""
        for item, found in self._journal.entries(sources):
            for name, writer in self._writers:
                if name in _ONE_FILE:
                    writer.add(item, found)
            yield item, found

    def add(self, item: PreparedImage, found: Detections) -> None:
        """Writes the detections of one image in every format."""
        for _, writer in self._writers:
            writer.add(item, found)
        self._journal.add(found)

    def add_failure(self, item: UnreadableSource) -> None:
        """Records a source that could not be read, or not to its end."""
        self._journal.add_failure(item)

    def finish(self) -> None:
        """Says that every source was reached."""
        self._is_finished = True

    @property
    def notes(self) -> list[str]:
        """What there is to know of what was written."""
        return [note for _, writer in self._writers for note in getattr(writer, "notes", ())]  # those of videos

    @property
    def written(self) -> list[Path]:
        """All files and folders of files that were written."""
        return [self._journal.path, *(path for _, writer in self._writers for path in writer.written)]
