"""Where the reference material (golden numbers, real images) lies, for the tests that need it.

It stands beside a developer's checkout and is not part of the project: a clone without it skips these tests.
`ONELOOK_SHARED` names another place.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

_PLACE = Path(os.environ.get("ONELOOK_SHARED") or Path(__file__).resolve().parents[2] / "shared")
SHARED: Path | None = _PLACE if (_PLACE / "reference").is_dir() else None

needs_shared = pytest.mark.skipif(
    SHARED is None, reason=f"reference material not found at {_PLACE} (set ONELOOK_SHARED)"
)


def reference(family: str) -> Path:
    """The folder of one family's facts, manifest and goldens."""
    assert SHARED is not None
    return SHARED / "reference" / family


def data(name: str) -> Path:
    """A real data set: "coco_mini" or "bccd"."""
    assert SHARED is not None
    return SHARED / "data" / name


def fill_module() -> ModuleType:
    """The reference's `fill(name, shape)` and `image(name, shape, high)`, imported from its file."""
    assert SHARED is not None
    spec = importlib.util.spec_from_file_location("onelook_reference_fill", SHARED / "reference" / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
