"""What the writers of detections share: text files that grow, file names, drawn images."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Protocol

import numpy as np

from onelook.draw import draw_detections, enlarge_small_image
from onelook.errors import UserError, reason_of
from onelook.files import open_replacing, write_bytes
from onelook.predict.sources import PreparedImage
from onelook.types import Detections


@dataclass(frozen=True)
class Output:
    """Where detections are written.

    formats: all that are written into the folder.  class_names: by label.  tracked: whether detections have tracks.
    line_width, show_labels: how boxes are drawn, see `draw_detections`.  sound: whether written videos have the sound
    of files.
    """

    folder: Path
    formats: Sequence[str] = ()
    class_names: Sequence[str] = ()
    tracked: bool = False
    line_width: int | None = None
    show_labels: bool = True
    sound: bool = True


class Writer(Protocol):
    """Writes detections in one format. needs_images: whether it draws on the images.

    add: writes one image's detections.  close: finishes the files.  discard: removes files that are not whole.
    """

    needs_images: ClassVar[bool]

    def add(self, item: PreparedImage, found: Detections) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...

    @property
    def written(self) -> list[Path]:
        """The files that were written, or the folder of many."""
        ...


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error about a file that cannot be written."""
    return UserError(f"'{path}' cannot be written: {reason_of(error)}.", "Choose another folder (out).")


class _Discarded(Exception):
    """Ends the writing of a file that is not wanted: its temporary file is removed."""


def discard(opened: contextlib.ExitStack) -> None:
    """Closes a file that is being written, and removes it."""
    with contextlib.suppress(_Discarded, OSError), opened:  # closing may fail, too, where the disk is full
        raise _Discarded


def drawn(item: PreparedImage, found: Detections, output: Output | None = None) -> np.ndarray:
    """The image with its detections; a small one is enlarged."""
    assert item.image is not None  # read with keep=True where something is drawn
    image, factor = enlarge_small_image(item.image)
    colours, names = found.labels, found.names
    if found.tracks is not None:  # a colour for each object instead of each class
        colours = found.tracks
        names = [f"{name} #{track}" for name, track in zip(names, found.tracks.tolist())]
    boxes, width, text = found.boxes * factor, None, True
    if output is not None:
        width, text = output.line_width, output.show_labels
    return draw_detections(image, boxes, found.scores, colours, names, text=text, line_width=width)


def file_name(item: PreparedImage) -> str:
    """The name of an image's own file, without its ending; the frames of a video are in a folder."""
    return item.source.name if item.frame is None else f"{item.source.name}/{item.frame:06d}"


def write_text(path: Path, text: str) -> None:
    """Writes a small text file at once."""
    try:
        write_bytes(path, text.encode("utf-8", "backslashreplace"), durable=False)
    except OSError as error:
        raise cannot_write(path, error) from error


class GrowingFile:
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
