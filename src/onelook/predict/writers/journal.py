"""The record of a detection as JSON lines, written as it goes, so that a run that was ended can be continued."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onelook.augment.letterbox import ResizeTransform
from onelook.errors import DataError, UsageError, UserError
from onelook.files import open_replacing, remove_leftovers, write_text
from onelook.predict.sources import PreparedImage, Source, UnreadableSource, Video
from onelook.predict.writers.files import cannot_write
from onelook.types import Detections

LINES, RECORD = "detections.jsonl", "detect.json"
_NOTHING_READ = np.zeros((0, 0, 3), np.uint8)


class Journal:
    """`detections.jsonl`: a line for each image and frame as soon as it is done; `detect.json`: the settings.

    A line is an entry of `detections.json`, or `{"source": ..., "error": ...}` for a source that could not be read. It
    is written after all other files of its image, and given to the system at once: a process that is killed has lost at
    most the image it was at. An incomplete last line is ignored.

    settings: what the run was started with, as plain data.  resume: continue the file that is there; UserError where
    there is none, UsageError where its settings are others.

    Images that are in the file are done. A video is done as a whole: one that was not finished starts again, and a
    source that could not be read is tried again.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path, self._record, self._settings = folder / LINES, folder / RECORD, dict(settings)
        self._done: Counter[str] = Counter()
        if resume:
            self._done = self._begin_again(folder)
        self._count = sum(self._done.values())
        try:
            self._write_record(finished=False)
            # A file's name may hold bytes that are no text: they are written as \udc.., which JSON reads back as such.
            self._file = open(  # noqa: SIM115  # as long as the run
                self.path, "a" if resume else "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def left(self, sources: list[Source]) -> list[Source]:
        """The sources that are not done yet, in their order."""
        done = Counter(self._done)
        left = []
        for source in sources:
            if done[source.path]:
                done[source.path] -= 1
            else:
                left.append(source)
        return left

    def entries(self, sources: list[Source]) -> Iterator[tuple[PreparedImage, Detections]]:
        """What was done before, with the sources that it is of; images without their pixels."""
        by_path = {source.path: source for source in sources}
        for entry in _lines(self.path) if self._done else ():
            source = by_path.get(entry["source"]) or Source("image", entry["source"], Path(entry["source"]).stem)
            yield _restored(entry, source)

    def add(self, found: Detections) -> None:
        """Writes the detections of one image or frame."""
        self._write(found.to_dict())

    def add_failure(self, item: UnreadableSource) -> None:
        """Writes that a source could not be read, or not to its end."""
        self._write({"source": item.source.path, "error": item.error.message})

    def close(self, *, finished: bool) -> None:
        """Ends the file. finished: whether every source was reached; a run without any line leaves no files."""
        with contextlib.suppress(OSError):  # the disk may be full; what was written before is there
            self._file.close()
        if not self._count and not finished:
            for path in (self.path, self._record):
                path.unlink(missing_ok=True)
        elif finished:
            try:
                self._write_record(finished=True)
            except OSError as error:
                raise cannot_write(self._record, error) from error

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._count += "error" not in entry

    def _write_record(self, *, finished: bool) -> None:
        content = {"settings": self._settings, "finished": finished}
        write_text(self._record, json.dumps(content, indent=1, ensure_ascii=True) + "\n")

    def _begin_again(self, folder: Path) -> Counter[str]:
        """Compares the settings, keeps the lines of what is done, and counts their sources."""
        finished = self._check_record()
        remove_leftovers(folder)
        done = _finished_sources(self.path, finished)
        try:
            with open_replacing(self.path, errors="backslashreplace", newline="") as file:
                for entry in _lines(self.path):
                    if "error" not in entry and entry["source"] in done:
                        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return done

    def _check_record(self) -> bool:
        """Whether the earlier run was finished; errors where there is none, or one with other settings."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            before, finished = dict(record["settings"]), bool(record["finished"])
        except FileNotFoundError as error:
            message = f"'{self._record.parent}' has no detection to resume: '{RECORD}' is not there."
            raise UserError(message, "Start it without resume, or give the folder of the run (out).") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"'{self._record}' cannot be read.", "Start a new run in another folder.") from error
        now = json.loads(json.dumps(self._settings))
        for name in (*now, *(set(before) - set(now))):
            if before.get(name) != now.get(name):
                message = f"'{name}' was {_text(before.get(name))} in this run, and is {_text(now.get(name))} now."
                raise UsageError(message, "Resume with the settings of the run, or start a new one in another folder.")
        return finished


def _text(value: object) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; DataError for a line that is none of ours. A missing file has none."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):  # the process ended while it was written
                return
            try:
                entry = json.loads(line)
                is_own = isinstance(entry["source"], str) and ("error" in entry or "detections" in entry)
            except (ValueError, KeyError, TypeError):
                is_own = False
            if not is_own:
                message = f"{path}:{number}: this is no line of detections."
                raise DataError(message, "Remove the line, or start a new run in another folder.")
            yield entry


def _finished_sources(path: Path, finished: bool) -> Counter[str]:
    """How often each source was done. finished: whether the run reached its end, and with it that of its last video."""
    done: Counter[str] = Counter()
    failed: set[str] = set()
    video = ""  # that the lines are in
    for entry in _lines(path):
        source, is_frame = entry["source"], entry.get("frame") is not None
        if "error" in entry:
            failed.add(source)
        elif is_frame:
            done[source] = 1
        else:
            done[source] += 1
        video = source if is_frame and "error" not in entry else ""
    for source in failed | ({video} if video and not finished else set()):
        del done[source]
    return done


def _restored(entry: Mapping[str, Any], source: Source) -> tuple[PreparedImage, Detections]:
    """An image without pixels, and its detections, of a line."""
    try:
        found = entry["detections"]
        size = (entry["height"], entry["width"])
        detections = Detections(
            np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
            np.array([one["score"] for one in found], np.float32),
            np.array([one["label"] for one in found], np.int64),
            _names_of(found),
            source=source.path,
            frame=entry["frame"],
            size=size,
            tracks=np.array([one["track"] for one in found], np.int64) if found and "track" in found[0] else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"The line of '{source.path}' is damaged ({error}).", "Start a new run.") from error
    video = None if entry["frame"] is None else Video(0.0, 0, *size)
    place = ResizeTransform(1.0, 1.0, 0.0, 0.0, size, size)
    return PreparedImage(_NOTHING_READ, place, source, entry["frame"], video), detections


def _names_of(found: list[dict[str, Any]]) -> tuple[str, ...]:
    """Class names by label, as far as the detections tell them; numbers between."""
    known = {one["label"]: one["name"] for one in found}
    return tuple(known.get(label, str(label)) for label in range(max(known, default=-1) + 1))


def has_results(folder: str | os.PathLike[str], names: tuple[str, ...]) -> str:
    """The first of the names that is in a folder already; "" where there is none."""
    return next((name for name in names if os.path.lexists(os.path.join(folder, name))), "")
