"""Data sets: their formats, the index that all share, checks, conversion, and the loader of a training.

Names are imported on first use: scoring reads annotations without everything else that a data set needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onelook.data.dataset import open_dataset as open_dataset
    from onelook.data.dataset import splits as splits
    from onelook.data.split import Dataset as Dataset

_MODULES = {"Dataset": "split", "open_dataset": "dataset", "splits": "dataset"}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
