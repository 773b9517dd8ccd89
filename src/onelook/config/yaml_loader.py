"""PyYAML's loader with the scalars of YAML 1.2, and limits on the size and depth of a document.

libyaml parses where it is there. Nodes are composed by PyYAML's Python composer, as that of the C loader has no place
where a node can be refused before it is made. Imported on first use: `import yaml` takes longer than a small command.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor

from onelook.errors import ConfigError

MOST = 200_000  # keys and values
DEEPEST = 64
LONGEST_PATH = 1_000  # letters of all keys above an entry, which its path repeats; no recipe has 200
TEXT = "tag:yaml.org,2002:str"

_Loader: Any = yaml.SafeLoader
if yaml.__with_libyaml__:

    class _FastLoader(Composer, yaml.CSafeLoader):
        """yaml.CSafeLoader with the composer in Python."""

        def __init__(self, text: str) -> None:
            Composer.__init__(self)
            yaml.CSafeLoader.__init__(self, text)

    _Loader = _FastLoader


class CoreLoader(_Loader):
    """Reads one document: `lines` has the line of every entry by its dotted path, once `read` has returned."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # how PyYAML has it; those of YAML 1.2 come below

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.lines: dict[str, int] = {}
        self._name = name
        self._entries = self._depth = 0

    def read(self) -> Any:
        """The data of the document, None for an empty one. Raises ConfigError, and YAMLError for what is no YAML."""
        node = self.get_single_node()
        return None if node is None else self._data(node, "")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses what is not read before a node is made of it."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._error(event, "anchors and aliases (& and *) are not read", "Write the value out.")
        if event.tag not in (None, "!") and (event.tag != TEXT or not isinstance(event, yaml.ScalarEvent)):
            raise self._error(event, f"the tag {event.tag} is not read", "Remove it.")
        if event.tag == "!":
            event.implicit = (False, True)  # text, whatever it looks like
        self._entries += 1
        if self._entries > MOST:
            raise self._error(event, f"has more than {MOST:,} entries, which no settings file has")
        if self._depth > DEEPEST:
            raise self._error(event, f"is nested more than {DEEPEST} levels deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _data(self, node: yaml.Node, path: str) -> Any:
        if len(path) > LONGEST_PATH:
            raise self._error(node, f"has keys of more than {LONGEST_PATH:,} letters")
        if path:
            self.lines[path] = node.start_mark.line + 1
        start = f"{path}." if path else ""
        if isinstance(node, yaml.SequenceNode):
            return [self._data(item, f"{start}{index}") for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node)
        found: dict[Any, Any] = {}
        for key_node, item in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise self._error(key_node, "a key must be text or a whole number", "Put it in quotes.")
            if key in found:
                raise self._error(key_node, f"the key '{key}' is given twice", "Remove one of them.")
            found[key] = self._data(item, f"{start}{key}")
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        return node.value if node.tag == TEXT else self.construct_object(node)

    def _error(self, at: Any, problem: str, remedy: str = "") -> ConfigError:
        return ConfigError(f"{self._name}:{at.start_mark.line + 1}: {problem}.", remedy)


def _whole_number(loader: SafeConstructor, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    return int(text, 0) if text[1:2] in ("o", "x") else int(text)


# The core schema of YAML 1.2 (sec. 10.3.2), for values without quotes, with the letters that they begin with ("" is
# nothing at all); numbers have a bounded length.
SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,300}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _kind, (_pattern, _first) in SCALARS.items():
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), _first)
CoreLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
