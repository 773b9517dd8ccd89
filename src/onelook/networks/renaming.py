"""Renames tensors by rules: how the families map our names to the official ones."""

from __future__ import annotations

import re
from collections.abc import Iterable


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """The name after all rules, (regular expression, replacement), each applied in turn to all of its matches."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
