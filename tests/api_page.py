"""The programs that write pages of docs/, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def make_api() -> ModuleType:
    """The program that writes docs/api.md."""
    return make_page("make_api")


def make_page(name: str) -> ModuleType:
    """A program of docs/ that writes a page."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # where dataclasses look their module up
    spec.loader.exec_module(made)
    return made
