"""Onelook: real-time object detection, the systems of four papers in one library of shared parts.

Everything public is imported on first use, so that detecting with an exported model needs no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Detections": "onelook.types",
    "UserError": "onelook.errors",
    "build": "onelook.models.build",
    "deploy": "onelook.models.deploy",
    "load": "onelook.predict.load",
    "load_weights": "onelook.weights",
    "save_weights": "onelook.weights",
    "open_dataset": "onelook.data",
    "validate": "onelook.cli.val",
    "train": "onelook.api.train",
    "export": "onelook.cli.export",
    "score": "onelook.cli.score",
    "change": "onelook.config",
    "override": "onelook.config",
    "diff": "onelook.config",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604

if TYPE_CHECKING:
    from onelook.types import Detections as Detections


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'onelook' has no attribute '{name}'")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """`onelook.train` and `onelook.export` are functions, whatever was imported before from the folders named alike."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
