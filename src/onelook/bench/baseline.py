"""The textbook versions that speed and equality are judged by; they lie in `benchmarks/baseline` of a checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "baseline"


def baseline(name: str) -> ModuleType | None:
    """The textbook module of that name; None where there is no checkout around this package."""
    path = FOLDER / f"{name}.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"onelook_baseline_{name}", path)
    assert spec is not None and spec.loader is not None  # it is a Python file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
