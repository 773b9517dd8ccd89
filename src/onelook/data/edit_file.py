"""The small YAML file of a data set that is made from others without copies: `from`, changes of classes, lists."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onelook.config import read_yaml_lines, write_yaml
from onelook.data.class_edits import ClassEdits, check_merges
from onelook.data.paths import read_text
from onelook.data.split_names import WHOLE, split_word
from onelook.errors import ConfigError, DataError, did_you_mean

_KEYS = ("from", "rename", "merge", "drop", "only", "skip_bad", "split")
_LIMIT = 1 << 20  # bytes
_MOST_SOURCES = 256
# The key at the beginning of a line, or, where the whole file is one mapping in braces, anywhere in its first line.
_FROM = re.compile(r"""(?:^|\A\s*\{(?:[^\n]*[\s,{])?)["']?from["']?[ \t]*:""", re.MULTILINE)


@dataclass(frozen=True)
class EditFile:
    """What such a file says.

    path: of the file.  sources: the data sets that it joins.  classes: changes of classes.  skip_bad: whether faulty
    entries and images are left out instead of being errors.  lists: for each split a file that lists its images; {}
    where the splits are those of the sources.
    """

    path: Path
    sources: tuple[Path, ...]
    classes: ClassEdits = ClassEdits()
    skip_bad: bool = False
    lists: Mapping[str, Path] = field(default_factory=dict)


def is_edit_file(path: Path) -> bool:
    """Whether a YAML file has the key `from` at the outermost level."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    try:
        return _FROM.search(read_text(path, _LIMIT)) is not None
    except DataError:
        return False


def read_edit_file(path: Path) -> EditFile:
    """Reads the file. Raises `DataError` that names file, line and key."""
    try:
        content, lines = read_yaml_lines(path)
    except ConfigError as error:
        raise DataError(error.message, error.remedy or "Correct the file.") from error
    if not isinstance(content, dict):
        raise DataError(f"'{path}' must have keys: {', '.join(_KEYS)}.", "Correct the file.")
    for key in content:
        if key not in _KEYS:
            hint = did_you_mean(str(key), _KEYS)
            raise DataError(
                f"{path}:{lines.get(str(key), 1)}: unknown key '{key}'.{hint}", f"The keys are {', '.join(_KEYS)}."
            )
    reader = _Reader(path, content, lines)
    sources = tuple(Path(os.path.abspath(path.parent / text)) for text in reader.texts("from"))
    if not 0 < len(sources) <= _MOST_SOURCES:
        raise reader.fault("from", f"must name 1 to {_MOST_SOURCES} data sets")
    skip_bad = content.get("skip_bad", False)
    if not isinstance(skip_bad, bool):
        raise reader.fault("skip_bad", "must be true or false")
    merge = {new: tuple(reader.texts_of(value, f"merge.{new}")) for new, value in reader.mapping("merge").items()}
    check_merges(merge, str(path))
    rename = {old: reader.text_of(new, f"rename.{old}") for old, new in reader.mapping("rename").items()}
    lists = {}
    for name, value in reader.mapping("split").items():
        split = name if name == WHOLE else split_word(name) or name
        if split in lists:
            raise reader.fault("split", f"names '{split}' twice")
        lists[split] = path.parent / reader.text_of(value, f"split.{name}")
    classes = ClassEdits(rename, merge, tuple(reader.texts("drop")), tuple(reader.texts("only")))
    return EditFile(path, sources, classes, skip_bad, lists)


@dataclass(frozen=True)
class _Reader:
    """Reads the entries of the file by their types."""

    path: Path
    content: Mapping[Any, Any]
    lines: Mapping[str, int]

    def fault(self, key: str, message: str) -> DataError:
        """The error for an entry."""
        line = self.lines.get(key) or self.lines.get(key.partition(".")[0], 1)
        return DataError(f"{self.path}:{line}: '{key}' {message}.", "Correct the entry.")

    def mapping(self, key: str) -> dict[str, Any]:
        """The entries below a key; {} where it is missing."""
        value = self.content.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fault(key, "must have entries 'name: value'")
        return {str(name): entry for name, entry in value.items()}

    def texts(self, key: str) -> list[str]:
        """The texts of a list, or the only one; [] where the key is missing."""
        value = self.content.get(key)
        return [] if value is None else self.texts_of(value, key)

    def texts_of(self, value: Any, key: str) -> list[str]:
        """A list of texts, or one text."""
        return [self.text_of(one, key) for one in (value if isinstance(value, list) else [value])]

    def text_of(self, value: Any, key: str) -> str:
        """One text; a number counts as the text of its digits, as a class may be called 1."""
        text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not text.strip() or "\0" in text or len(text) > 4096:
            raise self.fault(key, "must be a text")
        return text.strip()


def write_edit_file(
    path: Path,
    sources: Sequence[str],
    classes: ClassEdits | None = None,
    *,
    skip_bad: bool = False,
    lists: Mapping[str, str] | None = None,
) -> None:
    """Writes the file, whole or not at all. sources, lists: paths, relative to the folder of the file or absolute."""
    changes = classes or ClassEdits()
    content: dict[str, Any] = {"from": sources[0] if len(sources) == 1 else list(sources)}
    content |= {"rename": dict(changes.rename)} if changes.rename else {}
    content |= {"merge": {new: list(names) for new, names in changes.merge.items()}} if changes.merge else {}
    content |= {"drop": list(changes.drop)} if changes.drop else {}
    content |= {"only": list(changes.only)} if changes.only else {}
    content |= {"skip_bad": True} if skip_bad else {}
    content |= {"split": dict(lists)} if lists else {}
    write_yaml(path, content)
