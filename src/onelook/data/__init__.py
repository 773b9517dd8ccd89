"""Data sets: readers for COCO, YOLO and Pascal VOC, their shared index, checks and conversion. None needs torch.

Imported on first use: detecting in images needs only `data.images`, and the readers take a while to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onelook.data.dataset import Dataset as Dataset
    from onelook.data.dataset import open_dataset as open_dataset
    from onelook.data.dataset import splits as splits

__all__ = ["Dataset", "open_dataset", "splits"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'onelook.data' has no attribute '{name}'")
    value = getattr(import_module("onelook.data.dataset"), name)
    globals()[name] = value
    return value
