"""Reads and writes YAML files: a subset of YAML that holds data and nothing else.

The scalars are those of YAML 1.2's core schema, so `no`, `on` and `12:30` are text and `1e-3` is a number. Refused are
aliases and anchors (a small file could claim any amount of memory), tags, several documents, keys given twice, and
files beyond a size and depth.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from onelook.errors import ConfigError, reason_of
from onelook.files import write_text

LARGEST = 2 * 1024 * 1024  # bytes; a data set's file with 10,000 class names has 0.2 MB


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
        raise ConfigError(f"{path}: there is no such file.", "Check the path.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)}).") from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes | str, name: str) -> tuple[Any, dict[str, int]]:
    """Data and lines of YAML text; `name` is the file that messages speak of."""
    if len(content) > LARGEST:
        raise ConfigError(f"{name}: is larger than {LARGEST // 2**20} MB, which no settings file is.")
    import yaml

    from onelook.config.yaml_loader import CoreLoader

    text = _decode(content, name) if isinstance(content, bytes) else content
    try:
        loader = CoreLoader(text, name)
        return loader.read(), loader.lines
    except yaml.composer.ComposerError as error:
        raise ConfigError(
            f"{name}:{_line(error)}: a second document starts here.", "Keep one document a file."
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{name}:{_line(error)}: {error.problem or error.context}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: {error.reason}.") from None


def _line(error: Any) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: is no UTF-8 text.", "Save the file as UTF-8.") from None


def write_yaml(path: str | Path, plain: Any) -> Path:
    """Writes what `to_plain` made, whole or not at all, so that `read_yaml` gives it back; returns the path."""
    import yaml

    from onelook.config.yaml_loader import SCALARS

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        # Line breaks of Unicode and control characters survive in double quotes only.
        style = None if text.isprintable() else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, represent)
    # Quoted must be every text that YAML 1.1 (PyYAML's own rules) or 1.2 (ours) would not read as text.
    for kind in ("int", "float"):
        pattern, first = SCALARS[kind]
        Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})\\Z"), first)
    text = yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    path = Path(path)
    write_text(path, text)
    return path
