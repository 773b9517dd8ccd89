"""Reads XML of annotations with bounds on depth and lengths. Document types and entities are refused."""

from __future__ import annotations

from pathlib import Path
from typing import IO, NoReturn
from xml.parsers import expat

from onelook.errors import DataError

DEPTH_LIMIT = 32
TEXT_LIMIT = 4096
REMEDY = "Correct the file, or export it again."
_CHUNK = 1 << 16  # bytes that are parsed at once
_TAG_LIMIT = 1 << 22  # bytes of one tag with its attributes, such as the points of an outline


class BoundedXml:
    """Calls `started`, `characters` and `ended` for the tags of a file; nothing is ever expanded.

    A place is the tags from the root (without it) to the one at hand, such as "image/box". root: the name of the root.
    """

    def __init__(self, path: str | Path, root: str) -> None:
        self.path, self._root = path, root
        self.tags: list[str] = []
        self._places: list[str] = []  # of each of them
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self.characters
        self._expat.StartDoctypeDeclHandler = self._refuse
        self._expat.EntityDeclHandler = self._refuse
        self._expat.buffer_text = True

    def started(self, place: str, attributes: dict[str, str]) -> None:
        """A tag begins; `self.tags` ends with it."""

    def characters(self, text: str) -> None:
        """Text of the innermost tag."""

    def ended(self, place: str) -> None:
        """A tag ends; `self.tags` still ends with it."""

    @property
    def line(self) -> int:
        """The line at hand."""
        return self._expat.CurrentLineNumber

    def parse(self, data: bytes | IO[bytes]) -> None:
        """Parses a whole file, once. Raises `DataError` with file and line."""
        try:
            if isinstance(data, bytes):
                self._expat.Parse(data, True)
                return
            read = 0
            while chunk := data.read(_CHUNK):
                self._expat.Parse(chunk, False)
                read += len(chunk)
                if read - max(0, self._expat.CurrentByteIndex) > _TAG_LIMIT:  # the parser keeps it until it ends
                    self.fail(f"a tag is longer than {_TAG_LIMIT:,} bytes")
            self._expat.Parse(b"", True)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code] if error.code in expat.errors.messages else str(error)
            raise DataError(f"{self.path}:{error.lineno}: not valid XML: {reason}.", REMEDY) from None
        except (ValueError, LookupError) as error:  # an encoding unknown to Python
            raise DataError(f"{self.path}: not readable XML: {error}.", REMEDY) from None
        finally:
            del self._expat  # which refers to this object: thousands of such circles would be left for the collector

    def fail(self, message: str) -> NoReturn:
        """Raises `DataError` for what is at hand."""
        raise DataError(f"{self.path}:{self.line}: {message}.", REMEDY)

    def _refuse(self, *_: object) -> NoReturn:
        self.fail("the file declares a document type or entities, which annotations do not need, so it is refused")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.tags and tag != self._root:
            self.fail(f"expected <{self._root}>, found <{tag[:80]}>")
        self.tags.append(tag)
        depth = len(self.tags)
        if depth > DEPTH_LIMIT:
            self.fail(f"the tags are nested more than {DEPTH_LIMIT} deep")
        place = tag if depth == 2 else f"{self._places[-1]}/{tag}" if depth > 2 else ""
        self._places.append(place)
        self.started(place, attributes)

    def _end(self, tag: str) -> None:
        self.ended(self._places.pop())
        self.tags.pop()


def printable(text: str) -> str:
    """The same text. Raises `DataError` for control characters, which XML cannot hold."""
    if any(ord(mark) < 32 or mark in "\ufffe\uffff" for mark in text):
        raise DataError(f"The name {text!r} holds control characters, which XML cannot hold.", "Rename it.")
    return text
