"""The entries of a JSON file that is one long list, read one at a time: memory does not grow with the file."""

from __future__ import annotations

import codecs
import json
import re
import stat
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from onelook.errors import DataError
from onelook.evaluate.tables import shown

CHUNK = 1 << 20
LARGEST_ENTRY = 4 << 20  # characters; a results entry with a mask is a few thousand
LARGEST_FILE = 4 << 30  # bytes; forty million detections
START = object()
_SPACE = re.compile(r"[ \t\n\r]*")


def check_file(path: Path, largest: int = LARGEST_FILE) -> None:
    """Raises DataError unless `path` is an ordinary file of at most `largest` bytes. (A pipe would wait for ever.)"""
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{shown_path(path)}: cannot be read: {reason(error)}.") from error
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "no ordinary file"
        raise DataError(f"{shown_path(path)}: is {kind}; a JSON file is wanted.")
    if state.st_size > largest:
        raise DataError(
            f"{shown_path(path)}: has {state.st_size / 1e9:.1f} GB; files over {largest / 1e9:.1f} GB are refused."
        )


def reason(error: Exception) -> str:
    """Why a file cannot be opened, without the path that the message names already."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def shown_path(path: Path) -> str:
    """A path that can always be printed: undecodable bytes are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def list_entries(path: Path) -> Iterator[Any]:
    """The entries of the list in the file, in order.

    Raises DataError naming the file and the entry (counted from 0): no list, text that is no JSON or no UTF-8, a NaN or
    an infinite number, an entry nested too deeply or longer than `LARGEST_ENTRY`, a list that does not end, more text
    after its end.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            yield from _Scanner(shown_path(path), file).entries()
    except OSError as error:
        raise DataError(f"{shown_path(path)}: cannot be read: {reason(error)}.") from error


def object_entries(path: Path, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The entries of the named lists of the object in the file, as (key, entry), in the file's order.

    Each list begins with (key, START), so that an empty one is known to be there. The other members are read and
    forgotten. Raises DataError as `list_entries` does, and where a named member is no list or occurs twice.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            yield from _Scanner(shown_path(path), file).members(lists)
    except OSError as error:
        raise DataError(f"{shown_path(path)}: cannot be read: {reason(error)}.") from error


class _NotFiniteError(ValueError):
    pass


def _refuse_constant(name: str) -> Any:
    raise _NotFiniteError(name)


class _Scanner:
    """A window over the file's text: `text[at:]` is what has been read and not yet understood."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.parse = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
        self.text = ""
        self.at = 0
        self.ended = False
        self.read_bytes = 0

    def entries(self) -> Iterator[Any]:
        """The file is one list."""
        first = self._next_character()
        if first != "[":
            found = "the file is empty" if not first else "a COCO results file is one JSON list of detections"
            hint = ", not an object (an annotation file?)" if first == "{" else ""
            raise DataError(f"{self.name}: {found}{hint}.")
        yield from self._list("entry")
        self._expect_end()

    def members(self, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
        """The file is one object."""
        first = self._next_character()
        if first != "{":
            found = "the file is empty" if not first else "COCO annotations are one JSON object"
            hint = ", not a list (a results file?)" if first == "[" else ""
            raise DataError(f"{self.name}: {found}{hint}.")
        self.at += 1
        seen: set[str] = set()
        while self._next_character() != "}" or seen:
            key = self._value("a key")
            if not isinstance(key, str):
                raise DataError(f"{self.name}: a key must be text, not {shown(key)}.")
            self._expect(":", f"the key {shown(key)}")
            start = self._next_character()
            if key in lists:
                if start != "[" or key in seen:
                    raise DataError(f"{self.name}: '{key}' " + ("occurs twice." if start == "[" else "must be a list."))
                yield key, START
                for entry in self._list(f"{key} entry"):
                    yield key, entry
            elif start == "[":
                deque(self._list(f"the list {shown(key)}, entry"), maxlen=0)
            else:
                self._value(f"the value of {shown(key)}")
            seen.add(key)
            if self._expect(",}", f"the value of {shown(key)}") == "}":
                self._expect_end()
                return
        self.at += 1
        self._expect_end()

    def _list(self, what: str) -> Iterator[Any]:
        self.at += 1
        index = 0
        if self._next_character() == "]":
            self.at += 1
            return
        while True:
            yield self._value(f"{what} {index}")
            if self._expect(",]", f"{what} {index}") == "]":
                return
            self._next_character()
            index += 1

    def _expect(self, marks: str, after: str) -> str:
        mark = self._next_character()
        if not mark or mark not in marks:
            wanted = " or ".join(f"'{mark}'" for mark in marks)
            found = f"found {shown(mark)}" if mark else "the file ends: it seems to be cut short"
            raise DataError(f"{self.name}: after {after} a {wanted} must follow; {found}.")
        self.at += 1
        return mark

    def _value(self, what: str) -> Any:
        while True:
            try:
                entry, end = self.parse(self.text, self.at)
            except _NotFiniteError as error:
                raise DataError(f"{self.name}: {what} holds {error}, which is not a number.") from None
            except json.JSONDecodeError as error:
                if not self._worth_more(what):
                    raise self._broken(what, error) from None
            except RecursionError:
                raise DataError(f"{self.name}: {what} is nested too deeply.") from None
            except ValueError:
                raise DataError(f"{self.name}: {what} holds a number with thousands of digits.") from None
            else:
                # A number near the window's end may go on in the next chunk ("-1." or "2e-" read as -1 and 2).
                if end + 4 < len(self.text) or self.text[self.at] in '{["' or not self._worth_more(what):
                    self.at = end
                    return entry

    def _worth_more(self, what: str) -> bool:
        """Reads on when the entry may only be incomplete; False at the end of the file."""
        if self.ended:
            return False
        if len(self.text) - self.at > LARGEST_ENTRY:
            raise DataError(f"{self.name}: {what} is no JSON, or longer than {LARGEST_ENTRY >> 20} million characters.")
        self._more()
        return True

    def _broken(self, what: str, error: json.JSONDecodeError) -> DataError:
        rest = self.text[self.at :]
        if not rest or error.pos >= len(self.text) or error.msg.startswith("Unterminated"):
            return DataError(f"{self.name}: the file ends inside {what}: it seems to be cut short.")
        around = shown(self.text[error.pos : error.pos + 20])
        return DataError(f"{self.name}: {what} is no JSON: {error.msg.lower()} at {around}.")

    def _next_character(self) -> str:
        """Skips white space; the character there, '' at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more()

    def _expect_end(self) -> None:
        if extra := self._next_character():
            raise DataError(f"{self.name}: more text follows the end of the list, beginning with {shown(extra)}.")

    def _more(self) -> None:
        data = self.file.read(CHUNK)
        self.read_bytes += len(data)
        self.ended = not data
        if self.read_bytes > LARGEST_FILE:
            raise DataError(f"{self.name}: grew beyond {LARGEST_FILE / 1e9:.1f} GB while it was read.")
        try:
            self.text = self.text[self.at :] + self.decode(data, self.ended)
        except UnicodeDecodeError as error:
            place = max(0, self.read_bytes - len(data) + error.start)
            raise DataError(f"{self.name}: is not UTF-8 text (near byte {place}), so it is no JSON.") from None
        self.at = 0
