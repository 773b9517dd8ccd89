"""Imports what a text names, so that a table of names costs no imports before one of them is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_named(target: str) -> Any:
    """What a target "package.module:name" names. ImportError or AttributeError where it does not exist."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
