"""Finds the sources of images: files, folders, globs, lists, videos, cameras, stream addresses.

`find_sources` says what there is; `frames.read_frames` reads it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from onelook.augment.letterbox import ResizeTransform
from onelook.data.exif import DamagedHeaderError
from onelook.data.headers import is_heic, read_header
from onelook.data.images import IMAGE_SUFFIXES
from onelook.data.paths import other_spelling
from onelook.errors import ImageError, UsageError, did_you_mean, reason_of
from onelook.types import Detections

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "asf", "flv"),
        *("3gp", "ogv", "vob", "mjpeg", "mjpg"),
    )
)
UNREAD_SUFFIXES = frozenset(f".{name}" for name in ("jxl", "dng", "cr2", "cr3", "nef", "arw", "orf", "raf", "rw2"))
"""Suffixes of photographs that are not read: JPEG XL and the raw files of cameras."""
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "rtp://", "tcp://", "srt://", "mms://")
SAME_TIME = 1e-6
"""Seconds between times that are the same: containers round them."""

_LARGEST_LIST = 64 << 20  # bytes of a text file of paths


@dataclass(frozen=True)
class Source:
    """One file or stream. name: a relative path without suffix, unique among the sources, for what is written.

    path: as messages and files of results have it, without a password.  alone: whether the user gave it as the only
    thing, so that its damage is the command's error.  error: why there is nothing to read.  address: of a stream, with
    its password; "" where it is `path`.
    """

    kind: Literal["image", "video", "live", "missing"]
    path: str
    name: str
    alone: bool = False
    error: ImageError | None = None
    address: str = field(default="", repr=False)


@dataclass(frozen=True)
class Video:
    """The metadata of a video. frames: an estimate, 0 where unknown: most containers hold a duration only."""

    fps: float
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Excerpt:
    """Which frames of a video are used: every `every`th, from `start` up to `end` seconds after the first frame.

    end: None is the video's end. A frame at `start` is used, one at `end` is not.
    """

    every: int = 1
    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"'every' is {self.every}.", "Give 1 or more: 3 uses every third frame.")
        if not 0 <= self.start < math.inf:
            raise UsageError(f"'start' is {self.start:g}.", "Give a number of seconds, 0 or more.")
        if self.end is not None and not self.start < self.end:
            raise UsageError(f"'end' is {self.end:g} and 'start' is {self.start:g} s.", "Give an end after the start.")

    @staticmethod
    def of(every: int, start: float | str, end: float | str | None) -> Excerpt:
        """The excerpt of these settings, whose times may be text: seconds, m:s or h:m:s."""
        return Excerpt(every, seconds_of("start", start), None if end is None else seconds_of("end", end))

    @property
    def is_whole(self) -> bool:
        """Whether every frame is used."""
        return self == Excerpt()

    def has_begun(self, seconds: float) -> bool:
        """Whether a frame of this time is at the start or later."""
        return seconds >= self.start - SAME_TIME

    def ends_before(self, seconds: float) -> bool:
        """Whether a frame of this time is at the end or later."""
        return self.end is not None and seconds >= self.end - SAME_TIME


def seconds_of(name: str, value: float | str) -> float:
    """Seconds of a number, or of a text "90", "1:30" or "0:01:30.5". name: of the setting, for the UsageError."""
    if not isinstance(value, str):
        return float(value)
    parts = value.split(":")
    if re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", value.strip(), re.ASCII) and all(float(part) < 60 for part in parts[1:]):
        return sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))
    raise UsageError(f"'{name}' is '{value}'.", "Give seconds, or a time as m:s or h:m:s, such as 90.5 or 0:01:30.5.")


WHOLE = Excerpt()


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image that was resized to the network's input. pixels: (H, W, 3) uint8.  frame: its number in a video, from 0.

    seconds: when a video shows it, after its first frame; never less than those of the frame before.  image: the
    original pixels, where they were to be kept.
    """

    pixels: np.ndarray
    placement: ResizeTransform
    source: Source
    frame: int | None = None
    video: Video | None = None
    image: np.ndarray | None = None
    seconds: float = 0.0

    def attach(self, found: Detections) -> Detections:
        """Adds source, frame number and image to detections."""
        return replace(found, image=self.image, source=self.source.path, frame=self.frame, size=self.placement.source)


@dataclass(frozen=True, eq=False)
class UnreadableSource:
    """A source that could not be read, or not to its end. is_error: False for a warning: all was used."""

    source: Source
    error: ImageError
    is_error: bool = True

    @property
    def alone(self) -> bool:
        return self.is_error and self.source.alone


# --- finding ---------------------------------------------------------------------------------------------------------


def find_sources(given: Sequence[str], *, leave_out: str | os.PathLike[str] | None = None) -> list[Source]:
    """Finds the sources that the given names stand for, in their order, folders and globs sorted.

    A folder is searched with its subfolders, by suffix (hidden ones left out, links to folders not followed); a `.txt`
    file lists one path a line, relative to itself; a number is a camera unless a file is called so. leave_out: a folder
    that is not searched, such as the one that results go to.

    A name that cannot be used becomes a Source of kind "missing" with its error; ImageError only when nothing is given.
    """
    if not given:
        raise ImageError(
            "No source was given.", "Name images, folders, globs, videos, camera numbers or stream addresses."
        )
    hidden = os.path.realpath(leave_out) if leave_out is not None else None
    found: list[Source] = []
    for text in given:
        try:
            found += _expand(text, hidden, alone=len(given) == 1)
        except ImageError as error:
            found.append(Source("missing", without_password(text), "missing", alone=len(given) == 1, error=error))
    return list(_unique(found))


def _expand(text: str, hidden: str | None, alone: bool) -> list[Source]:
    if text.lower().startswith(STREAMS):
        return [Source("live", without_password(text), "stream", alone, address=text)]
    try:
        status = os.stat(text)
    except (OSError, ValueError):
        if text.isdecimal() and len(text) < 5:
            return [Source("live", text, f"camera{int(text)}", alone)]
        if any(letter in text for letter in "*?["):
            return _globbed(text)
        if "\0" not in text and not os.path.lexists(text):  # said before a model is loaded
            hint = other_spelling(text) or _similar(text)
            raise ImageError(f"'{without_password(text)}' does not exist.{hint}", "Check the path.") from None
        return [file_source(text, PurePath(text).name, alone)]  # its reader says what is wrong with it
    if stat.S_ISDIR(status.st_mode):
        return _folder(text, hidden)
    if PurePath(text).suffix.lower() == ".txt":
        return _listed(text, alone)
    return [file_source(text, PurePath(text).name, alone)]


def without_password(address: str) -> str:
    """An address with *** for its password, as messages and results show it; any other text as it is."""
    # Up to the last @ of the host's part; a password that holds a slash, which belongs encoded, is hidden as well.
    return re.sub(r"^([a-z]+://[^/:@?#\[]*):([^/?#]*@|(?!\d+/).*@)", r"\1:***@", address, flags=re.IGNORECASE)


def _similar(path: str) -> str:
    """' Did you mean ...?' of the names in the path's folder; of so many that it takes no time."""
    folder, name = os.path.split(path)
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        return did_you_mean(name, [entry.name for entry in itertools.islice(entries, 5000)])
    return ""


def file_source(path: str, name: str, alone: bool = False) -> Source:
    """A file is an image by its first bytes or else its suffix, otherwise a video."""
    suffix = PurePath(path).suffix.lower()
    # A raw file may be a TIFF, whose first image is a preview.
    if suffix in UNREAD_SUFFIXES and (_beginning(path)[:2] in (b"II", b"MM") or not _begins_like_image(path)):
        reason = ImageError(f"'{path}' was left out: {suffix} files are not read.", "Convert it to JPEG or PNG.")
        return Source("missing", path, os.path.splitext(name)[0], alone, error=reason)
    kind: Literal["image", "video"] = "video" if suffix in VIDEO_SUFFIXES else "image"
    if suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not _begins_like_image(path) and _begins_like_video(path):
        kind = "video"
    return Source(kind, path, os.path.splitext(name)[0] or "file", alone)


def _beginning(path: str) -> bytes:
    """The first bytes of a regular file; none where it cannot be read, which its reader reports."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                return file.read(1024)
    return b""


def _begins_like_image(path: str) -> bool:
    try:
        return read_header(_beginning(path)) is not None
    except DamagedHeaderError:
        return True


def _begins_like_video(path: str) -> bool:
    head = _beginning(path)
    if is_heic(head):
        return False
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide") or head.startswith(
        (b"RIFF", b"\x1aE\xdf\xa3", b"FLV", b"\0\0\1\xba", b"\0\0\1\xb3", b"OggS", b"0&\xb2u", b"G@")
    )


def _folder(text: str, hidden: str | None) -> list[Source]:
    unreadable: list[OSError] = []
    found = [
        file_source(path, os.path.relpath(path, text))
        for path in files_in_folder(text, hidden, onerror=unreadable.append)
    ]
    for error in unreadable:
        reason = unreadable_folder(error)
        found.append(Source("missing", str(error.filename), "missing", error=reason))
    if not found:
        raise ImageError(
            f"There are no images and no videos in '{text}'.", "Name another folder, or the files themselves."
        )
    return found


def files_in_folder(
    text: str, hidden: str | None = None, *, onerror: Callable[[OSError], object] | None = None
) -> Iterator[str]:
    """The files of a folder and its subfolders that `find_sources` takes, by suffix and in its order, one by one.

    hidden: the real path of a folder that is left out.  onerror: called for a folder that cannot be read.
    """
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES | UNREAD_SUFFIXES
    for folder, subfolders, names in os.walk(text, onerror=onerror):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) != hidden
        )
        for name in sorted(names):
            if PurePath(name).suffix.lower() in known and not name.startswith("."):
                yield os.path.join(folder, name)


def unreadable_folder(error: OSError) -> ImageError:
    """The error for a folder that cannot be read."""
    return ImageError(f"The folder '{error.filename}' cannot be read: {reason_of(error)}.", "Change its permissions.")


def _globbed(text: str) -> list[Source]:
    import glob

    matched = sorted(path for path in glob.iglob(text, recursive=True) if not os.path.isdir(path))
    if not matched:
        raise ImageError(f"No file matches '{text}'.", "Check the pattern; ** goes into subfolders.")
    return [file_source(path, PurePath(path).name) for path in matched]


def _listed(text: str, alone: bool) -> list[Source]:
    try:
        if os.path.getsize(text) > _LARGEST_LIST:
            raise ImageError(f"The list '{text}' is larger than {_LARGEST_LIST >> 20} MiB.", "Give shorter lists.")
        content = Path(text).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ImageError(f"The list '{text}' cannot be read: {reason_of(error)}.", "Check the file.") from error
    except UnicodeDecodeError as error:
        raise ImageError(f"'{text}' is not a list of paths: it is no UTF-8 text.", "Give one path a line.") from error
    folder = os.path.dirname(text)
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        path = listed_path(line, number, text)
        if path is None:
            continue
        if path.lower().startswith(STREAMS):
            raise ImageError(f"Line {number} of '{text}' is a stream address.", "Give streams on the command line.")
        path = path if os.path.isabs(path) else os.path.join(folder, path)
        found.append(file_source(path, PurePath(path).name))
    if not found:
        raise ImageError(f"The list '{text}' names no files.", "Give one path a line.")
    return found


def listed_path(line: str, number: int, text: str) -> str | None:
    """The path on a line of a list; None for an empty line and a comment. ImageError for what is no path.

    number, text: of the line and the list, for the message.
    """
    path = line.strip()
    if not path or path == "#" or path.startswith("# "):  # a file may be called #1.jpg
        return None
    if len(path) > 4096 or not path.isprintable():
        raise ImageError(f"Line {number} of '{text}' is not a path.", "Give one path a line.")
    return path


def _unique(sources: Sequence[Source]) -> Iterator[Source]:
    """Names that differ, also where letters' case does not count."""
    used: set[str] = set()
    for source in sources:
        name, number = source.name, 1
        while name.lower() in used:
            number += 1
            name = f"{source.name}_{number}"
        used.add(name.lower())
        yield replace(source, name=name)
