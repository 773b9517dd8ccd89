"""Settings that are frozen dataclasses: changed copies by dotted paths, differences, text and files.

Nothing of detection is known here. A setting is any field of a frozen dataclass, however deep; items of a tuple are
addressed by index or by their `name` (`loss.terms.box.weight`), entries of a mapping by key.
"""

from onelook.config.arguments import check_arguments
from onelook.config.files import parse_yaml, read_yaml, read_yaml_lines, write_yaml
from onelook.config.plain import from_plain, to_plain
from onelook.config.text import override, to_text
from onelook.config.values import Difference, change, diff, get, settings

__all__ = [
    "Difference",
    "change",
    "check_arguments",
    "diff",
    "from_plain",
    "get",
    "override",
    "parse_yaml",
    "read_yaml",
    "read_yaml_lines",
    "settings",
    "to_plain",
    "to_text",
    "write_yaml",
]
