"""Large JSON files, read window by window: memory is bounded by the largest element, and every element has a line.

Written by hand around msgspec, which decodes the elements but needs the whole text it decodes in memory: an annotation
file may have gigabytes. The keys of the outermost object, the place in the file and every error message are from here.
"""

from __future__ import annotations

import codecs
import gc
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from onelook.errors import DataError, reason_of
from onelook.reporter import Progress, ignore_progress

CHUNK = 1 << 19
ELEMENT_LIMIT = 1 << 24  # characters; the longest annotation of COCO has about 200,000
FILE_LIMIT = 8 << 30  # bytes; twenty times the annotations of COCO's train2017
SKIP_DEPTH = 200
BATCH = 1 << 18  # characters that are decoded at once: long enough for speed, short enough to stay in the cache
SMALLEST_BATCH = 1 << 12

_SPACE = re.compile(r"[ \t\n\r]*")
# Python 3.10 has no possessive repetition: the same strings, with up to a gigabyte for one of 16 million escapes.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"' if sys.version_info >= (3, 11) else r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(_STRING + r'|["\[\]{}]', re.DOTALL)
_REMEDY = "Write the file again, or restore it from its source."


def _no_constant(name: str) -> Any:
    raise ValueError(f"'{name}' is not a number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_END = re.compile(r"}[ \t\n\r]*(?:,[ \t\n\r]*\{|\])")

T = TypeVar("T", bound=Sized)


class UnusualError(Exception):
    """Raised by a parser of `batches` for elements that it leaves to the slow path, be they wrong or only rare."""


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Consecutive elements of a list that were decoded at once.  line: of the first one.  text: what was decoded."""

    line: int
    text: str
    found: T

    def lines(self) -> list[int]:
        """The line of every element."""
        if "\n" not in self.text:
            return [self.line] * len(self.found)
        lines, line, start = [], self.line, 0
        for raw in _ELEMENTS.decode(self.text):
            element = bytes(raw).decode()
            # Between two elements there are only spaces and a comma, so the next match is the element itself.
            at = self.text.index(element, start)
            line += self.text.count("\n", start, at)
            lines.append(line)
            line, start = line + element.count("\n"), at + len(element)
        return lines


@dataclass(frozen=True)
class Single:
    """One element of a list, as `json` reads it, that was not part of a batch."""

    line: int
    element: Any


class JsonStream:
    """Reads one JSON object from a file: `for key in stream.keys()`, then `elements()`, `value()` or `skip()`.

    Or one list: `for part in stream.only_list(name, parse)`.

    UTF-8 with or without a byte order mark, or UTF-16 with one. NaN, Infinity, deep nesting and elements of more than
    16 million characters are refused. Every fault is a `DataError` with file and line.
    """

    def __init__(self, path: Path, progress: Progress = ignore_progress) -> None:
        self.path, self._progress = path, progress
        try:
            self._total = path.stat().st_size
            if not path.is_file():
                raise DataError(f"'{path}' is not an ordinary file.", "Give a JSON file.")
            if self._total > FILE_LIMIT:
                size, limit = f"{self._total / 1e9:.1f}", f"{FILE_LIMIT / 1e9:.1f}"
                raise DataError(f"'{path}' has {size} GB; JSON files over {limit} GB are refused.", "Split the file.")
            self._file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f"'{path}' cannot be read: {reason_of(error)}.", "Check the path and permissions."
            ) from error
        start = self._file.read(4)
        self._file.seek(0)
        wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        self._decode = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._lines, self._counted = 1, 0  # line of the place in the text up to which lines have been counted

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def line(self) -> int:
        """Line of the next thing to be read."""
        # Counted on from the last question: this is asked for every element, and a window holds thousands.
        # Most large files are one line: to find nothing is many times as quick as to count.
        if self._text.find("\n", self._counted, self._at) >= 0:
            self._lines += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._lines

    def keys(self) -> Iterator[str]:
        """The keys of the object in file order. After each, its value must be read or skipped."""
        opening = self._peek()
        if opening != "{":
            found = "a list, as results files are" if opening == "[" else "no JSON object"
            raise self.fault(f"expected a JSON object, but the file holds {found}", "Give an annotation file.")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                if self._peek() != '"':
                    raise self.fault("expected a key in quotes")
                key = self.value("a key")
                self._expect(":")
                yield key
                if self._separator("}"):
                    break
        if self._peek():
            raise self.fault("there is more after the end of the JSON object")

    def batches(self, key: str, parse: Callable[[str], T]) -> Iterator[Batch[T] | Single]:
        """The elements of the list that comes next: many at a time where `parse` accepts them, else one by one.

        parse: from the text of a JSON list to its elements; it raises UnusualError or a decoder's error for what it
        does not accept, and the elements are then read one by one, so every message names the element and its line.
        """
        if not self._enter(key):
            return
        position, size = 0, BATCH
        while True:
            is_object = self._peek() == "{"
            while len(self._text) - self._at < size and not self._ended:
                self._fill()
            line, end = self.line, self._batch_end(size) if is_object else self._at
            if batch := self._parsed(line, end, parse):
                position, size, self._at = position + len(batch.found), min(BATCH, 4 * size), end
                yield batch
                if self._separator("]"):
                    return
                continue
            if end - self._at > SMALLEST_BATCH:
                size //= 4
                continue
            yield Single(line, self.value(f"{key}[{position}]"))
            position += 1
            if self._separator("]"):
                return

    def _batch_end(self, size: int) -> int:
        """A guess of where the last complete element of the next `size` characters ends; parsing confirms it."""
        end = self._text.rfind("}", self._at, self._at + size)
        for _ in range(100):
            if end < 0 or _END.match(self._text, end):
                break
            end = self._text.rfind("}", self._at, end)
        return end + 1

    def _parsed(self, line: int, end: int, parse: Callable[[str], T]) -> Batch[T] | None:
        """The elements up to `end`: text that parses as a list cannot end anywhere but between two elements."""
        if end <= self._at:
            return None
        text = f"[{self._text[self._at : end]}]"
        # Values of JSON have no cycles, so the garbage collector would only cost time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return Batch(line, text, parse(text))
        except (UnusualError, msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
            return None
        finally:
            if collecting:
                gc.enable()

    def elements(self, key: str) -> Iterator[tuple[int, Any]]:
        """(line, element) of the list that comes next. Raises where it is no list."""
        if not self._enter(key):
            return
        position = 0
        while True:
            self._peek()
            line = self.line
            yield line, self.value(f"{key}[{position}]")
            position += 1
            if self._separator("]"):
                return

    def _enter(self, key: str) -> bool:
        """Passes the beginning of a list, and the end of one without elements; whether there are elements."""
        if self._peek() != "[":
            raise self.fault(f"'{key}' must be a list")
        self._at += 1
        empty = self._peek() == "]"
        self._at += empty
        return not empty

    def only_list(self, name: str, parse: Callable[[str], T]) -> Iterator[Batch[T] | Single]:
        """The `batches` of a file that is one list, as results files are; messages call its elements `name[0]`..."""
        opening = self._peek()
        if opening != "[":
            found = {"{": "an object, as annotation files are", "": "nothing"}.get(opening, "no JSON list")
            raise self.fault(f"expected a JSON list, but the file holds {found}", "Give a results file.")
        yield from self.batches(name, parse)
        if self._peek():
            raise self.fault("there is more after the end of the JSON list")

    def value(self, what: str) -> Any:
        """The value that comes next, whole."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self.fault(f"{what} is nested too deeply") from None
            except json.JSONDecodeError as error:
                problem, place = error.msg, error.pos
            except ValueError as error:
                problem = "a number has thousands of digits" if "digits" in str(error) else str(error)
                place = self._at
            else:
                # A number may go on in the next chunk ("-1." and "2e-" read as -1 and 2 so far).
                if end + 4 < len(self._text) or self._text[self._at] in '{["' or self._ended:
                    self._at = end
                    return value
                problem, place = "", end
            if self._ended:
                cut = place >= len(self._text) or problem.startswith("Unterminated")
                self._at = min(place, len(self._text))
                if cut:
                    raise self.fault(f"the file ends inside {what}: it seems to be cut short")
                raise self.fault(f"{what} is not valid JSON: {problem}")
            if len(self._text) - self._at > ELEMENT_LIMIT:
                self._at = place if problem else self._at
                raise self.fault(f"{what} is not valid JSON, or longer than {ELEMENT_LIMIT:,} characters: {problem}")
            self._fill()

    def skip(self) -> None:
        """Passes over the value that comes next, without making it."""
        if self._peek() not in ("{", "["):
            self.value("a value")
            return
        depth = 0
        while True:
            match = _TOKEN.search(self._text, self._at)
            if match is None or match[0] == '"':  # nothing more here, or a string that goes on in the next chunk
                if self._ended:
                    raise self.fault("the file ends inside a value")
                self._at = len(self._text) if match is None else match.start()
                self._bounded("a string")
                continue
            self._at = match.end()
            token = match[0][0]
            depth += (token in "[{") - (token in "]}")
            if depth == 0 and token in "]}":
                return
            if depth > SKIP_DEPTH:
                raise self.fault("a value is nested too deeply")

    def fault(self, message: str, remedy: str = _REMEDY) -> DataError:
        """The error for what was found at the present place."""
        return DataError(f"{self.path}:{self.line}: {message}.", remedy)

    def _peek(self) -> str:
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._fill()

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            found = self._peek()
            raise self.fault(
                f"expected '{mark}'"
                + (f", found '{found}'" if found else ", but the file ends here: it seems to be cut short")
            )
        self._at += 1

    def _separator(self, closing: str) -> bool:
        found = self._peek()
        if found == closing:
            self._at += 1
            return True
        if found != ",":
            raise self.fault(
                f"expected ',' or '{closing}'" + ("" if found else ", but the file ends here: it seems to be cut short")
            )
        self._at += 1
        return False

    def _bounded(self, what: str) -> None:
        if len(self._text) - self._at > ELEMENT_LIMIT:
            raise self.fault(f"{what} is longer than {ELEMENT_LIMIT:,} characters")
        self._fill()

    def _fill(self) -> None:
        """Drops what was read and reads on: twice as much each time one element does not fit."""
        self._lines, self._counted = self.line, 0
        rest = self._text[self._at :]
        data = self._file.read(max(CHUNK, len(rest)))
        self._ended = not data
        try:
            more = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            self._text, self._at = rest, 0
            raise self.fault(f"the file is not UTF-8 text ({error.reason})") from None
        self._text, self._at = rest + more, 0
        self._progress(self._file.tell(), self._total)


def number(value: Any) -> float | None:
    """The value as a finite float, or None where it is anything else (a bool, a text, 1e999, a 400-digit integer)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if type(value) is int and abs(value) < 1 << 63:
        return float(value)
    return None


def integer(value: Any) -> int | None:
    """The value as an integer of 63 bits (3.0 counts as 3), or None where it is anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 1 << 62 else None
