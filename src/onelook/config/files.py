"""YAML files, read with care: a subset that holds data and nothing else.

The scalars are those of YAML 1.2's core schema, so `no`, `on` and `12:30` are text and `1e-3` is a number. Refused are
aliases and anchors (a small file could claim any amount of memory), tags, several documents, keys given twice, and
files beyond a size and depth.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from onelook.errors import ConfigError
from onelook.files import write_text

LARGEST = 2 * 1024 * 1024  # bytes; a data set's file with 10,000 class names has 0.2 MB
MOST = 200_000  # keys and values
DEEPEST = 64

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE, _FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_OCTAL, _HEXADECIMAL = re.compile(r"0o[0-7]{1,100}"), re.compile(r"0x[0-9a-fA-F]{1,100}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY, _NAN = re.compile(r"[-+]?\.(inf|Inf|INF)"), re.compile(r"\.(nan|NaN|NAN)")


def read_yaml(path: str | Path) -> Any:
    """The data of a YAML (or JSON) file: dicts, lists, text, numbers, true and false, None.

    Raises ConfigError that names file and line for a file that is missing, too large, damaged, or holds what is
    refused (see above).
    """
    return read_yaml_lines(path)[0]


def read_yaml_lines(path: str | Path) -> tuple[Any, dict[str, int]]:
    """The same, and the line of every entry by its dotted path (`names.3`), for messages about the content."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes | str, name: str) -> tuple[Any, dict[str, int]]:
    """Data and lines of YAML text; `name` is the file that messages speak of."""
    if len(content) > LARGEST:
        raise ConfigError(f"{name}: is larger than {LARGEST // 2**20} MB, which no settings file is.")
    import yaml

    text = _decode(content, name) if isinstance(content, bytes) else content

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reader = _Events(name)
    try:
        for event in yaml.parse(text, Loader=loader):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{name}:{mark.line + 1 if mark else 1}: {error.problem or error.context}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: {error.reason}.") from None
    return reader.result, reader.lines


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: is no UTF-8 text.", "Save the file as UTF-8.") from None


class _Events:
    """Builds data from the parser's events, without recursion and without ever making more than the file spells out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result: Any = None
        self.lines: dict[str, int] = {}
        self.documents = 0
        self.entries = 0
        self.open: list[tuple[Any, str]] = []  # containers under construction, with their paths
        self.key: list[Any] = []  # for each open mapping the key that waits for its value, or _NO_KEY; index of a list

    def take(self, event: Any) -> None:
        import yaml

        if getattr(event, "anchor", None) is not None or isinstance(event, yaml.AliasEvent):
            raise self.error(event, "anchors and aliases (& and *) are not read", "Write the value out.")
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.error(event, "a second document starts here", "Keep one document a file.")
        elif isinstance(event, yaml.ScalarEvent):
            self.add(event, self.scalar(event))
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if event.tag is not None and not event.implicit:
                raise self.error(event, f"the tag {event.tag} is not read", "Remove it.")
            container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            path = self.add(event, container)
            if len(self.open) >= DEEPEST:
                raise self.error(event, f"is nested more than {DEEPEST} levels deep")
            self.open.append((container, path))
            self.key.append(_NO_KEY)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.open.pop()
            self.key.pop()

    def add(self, event: Any, value: Any) -> str:
        """Puts a value where it belongs; its dotted path."""
        line = event.start_mark.line + 1
        self.entries += 1
        if self.entries > MOST:
            raise self.error(event, f"has more than {MOST:,} entries, which no settings file has")
        if not self.open:
            self.result = value
            return ""
        container, path = self.open[-1]
        if isinstance(container, list):
            here = f"{path}.{len(container)}" if path else str(len(container))
            container.append(value)
        elif self.key[-1] is _NO_KEY:
            if not isinstance(value, (str, int)) or isinstance(value, bool):
                raise self.error(event, "a key must be text or a whole number", "Put it in quotes.")
            if value in container:
                raise self.error(event, f"the key '{value}' is given twice", "Remove one of them.")
            self.key[-1] = value
            return path
        else:
            key = self.key[-1]
            here = f"{path}.{key}" if path else str(key)
            container[key] = value
            self.key[-1] = _NO_KEY
        self.lines[here] = line
        return here

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.tag not in (None, "!") or event.style not in (None, ""):
            if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
                raise self.error(event, f"the tag {event.tag} is not read", "Remove it.")
            return text
        if event.tag == "!" or not event.implicit[0]:
            return text
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text[0] in "tT"
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _INFINITY.fullmatch(text) or _NAN.fullmatch(text):
            return float(text.replace(".", ""))
        return text

    def error(self, event: Any, problem: str, remedy: str = "") -> ConfigError:
        return ConfigError(f"{self.name}:{event.start_mark.line + 1}: {problem}.", remedy)


_NO_KEY = object()


def write_yaml(path: str | Path, plain: Any) -> Path:
    """Writes what `to_plain` made, whole or not at all, so that `read_yaml` gives it back; returns the path."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        # Line breaks of Unicode and control characters survive in double quotes only.
        style = None if text.isprintable() else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, represent)
    # Quoted must be every text that YAML 1.1 (PyYAML's own rules) or 1.2 (ours) would not read as text.
    for tag, pattern, first in (("int", _OCTAL, "0"), ("float", _FLOAT, "-+.0123456789")):
        Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern.pattern})$"), list(first))
    text = yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    path = Path(path)
    write_text(path, text)
    return path
