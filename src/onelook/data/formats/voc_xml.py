"""Reads one XML file of Pascal VOC annotations. Every length and depth is bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onelook.data.formats.bounded_xml import TEXT_LIMIT, BoundedXml
from onelook.data.paths import read_bytes

XML_LIMIT = 1 << 24  # bytes of one file
OBJECT_LIMIT = 1 << 16
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


class _Parser(BoundedXml):
    """Collects the few tags that matter. Other text, most of it spaces between tags, never leaves the parser in C."""

    _KEPT = frozenset(
        ["filename", "size/width", "size/height", *(f"object/{name}" for name in _FIELDS)]
        + [f"object/bndbox/{side}" for side in SIDES]
    )

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "annotation")
        self.found = VocFile()
        self._text: list[str] | None = None
        self._length = 0
        self._expat.CharacterDataHandler = None

    def read(self) -> VocFile:
        """The content of the file."""
        self.parse(read_bytes(self.path, XML_LIMIT))
        return self.found

    def started(self, place: str, attributes: dict[str, str]) -> None:
        """Begins an object, or the text of a tag that matters."""
        if place == "object":
            if len(self.found.objects) >= OBJECT_LIMIT:
                self.fail(f"there are more than {OBJECT_LIMIT:,} objects")
            self.found.objects.append(VocObject(self.line))
        if place in self._KEPT:
            self._text, self._length = [], 0
            self._expat.CharacterDataHandler = self.characters
        elif self._text is not None:
            self._text = self._expat.CharacterDataHandler = None

    def characters(self, text: str) -> None:
        """Collects the text of a tag that matters."""
        if self._text is not None:
            self._length += len(text)
            if self._length > TEXT_LIMIT:
                self.fail(f"the text of <{self.tags[-1]}> is longer than {TEXT_LIMIT:,} characters")
            self._text.append(text)

    def ended(self, place: str) -> None:
        """Keeps the text of a tag that matters."""
        if self._text is not None:
            texts = self.found.objects[-1].texts if place.startswith("object/") else self.found.texts
            texts[self.tags[-1]] = "".join(self._text).strip()
            self._text = self._expat.CharacterDataHandler = None


def read_xml(path: str | Path) -> VocFile:
    """One annotation file. Raises `DataError` with file and line."""
    return _Parser(path).read()
