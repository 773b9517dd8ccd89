"""Reads one XML file of Pascal VOC annotations. Every length and depth is bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from onelook.data.paths import read_bytes
from onelook.errors import DataError

XML_LIMIT = 1 << 24  # bytes of one file
DEPTH_LIMIT = 32
TEXT_LIMIT = 4096
OBJECT_LIMIT = 1 << 16
REMEDY = "Correct the file, or export it again."
SIDES = ("xmin", "ymin", "xmax", "ymax")
_FIELDS = ("name", "difficult", "truncated", "occluded", "pose")


@dataclass
class VocObject:
    """One `<object>`: its texts by tag, as written, and the line it starts on."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class VocFile:
    """The content of one XML file."""

    texts: dict[str, str] = field(default_factory=dict)  # filename, width, height
    objects: list[VocObject] = field(default_factory=list)


class _Parser:
    """Collects the few tags that matter. Document types and entities are refused, so nothing is ever expanded."""

    _KEPT = frozenset(
        ["filename", "size/width", "size/height", *(f"object/{name}" for name in _FIELDS)]
        + [f"object/bndbox/{side}" for side in SIDES]
    )

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, VocFile()
        self._tags: list[str] = []
        self._text: list[str] | None = None
        self._length = 0
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters
        self._expat.StartDoctypeDeclHandler = self._refuse
        self._expat.EntityDeclHandler = self._refuse
        self._expat.buffer_text = True

    def read(self) -> VocFile:
        data = read_bytes(self.path, XML_LIMIT)
        try:
            self._expat.Parse(data, True)
        except expat.ExpatError as error:
            reason = expat.errors.messages[error.code] if error.code in expat.errors.messages else str(error)
            raise DataError(f"{self.path}:{error.lineno}: not valid XML: {reason}.", REMEDY) from None
        except (ValueError, LookupError) as error:  # an encoding unknown to Python
            raise DataError(f"{self.path}: not readable XML: {error}.", REMEDY) from None
        return self.found

    def _fail(self, message: str) -> NoReturn:
        raise DataError(f"{self.path}:{self._expat.CurrentLineNumber}: {message}.", REMEDY)

    def _refuse(self, *_: object) -> NoReturn:
        self._fail("the file declares a document type or entities, which annotations do not need, so it is refused")

    def _start(self, tag: str, _: object) -> None:
        if not self._tags and tag != "annotation":
            self._fail(f"expected <annotation>, found <{tag[:80]}>")
        self._tags.append(tag)
        if len(self._tags) > DEPTH_LIMIT:
            self._fail(f"the tags are nested more than {DEPTH_LIMIT} deep")
        place = "/".join(self._tags[1:])
        if place == "object":
            if len(self.found.objects) >= OBJECT_LIMIT:
                self._fail(f"there are more than {OBJECT_LIMIT:,} objects")
            self.found.objects.append(VocObject(self._expat.CurrentLineNumber))
        self._text, self._length = ([], 0) if place in self._KEPT else (None, 0)

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._length += len(text)
            if self._length > TEXT_LIMIT:
                self._fail(f"the text of <{self._tags[-1]}> is longer than {TEXT_LIMIT:,} characters")
            self._text.append(text)

    def _end(self, tag: str) -> None:
        if self._text is not None:
            inside = len(self._tags) > 2 and self._tags[1] == "object"
            texts = self.found.objects[-1].texts if inside else self.found.texts
            texts[tag] = "".join(self._text).strip()
        self._text = None
        self._tags.pop()


def read_xml(path: Path) -> VocFile:
    """One annotation file. Raises `DataError` with file and line."""
    return _Parser(path).read()
