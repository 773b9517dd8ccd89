"""Data sets: their formats, the index that all share, checks, conversion, and the loader of a training."""

from __future__ import annotations

from onelook.data.dataset import Dataset as Dataset
from onelook.data.opening import open_dataset as open_dataset
from onelook.data.opening import splits as splits

__all__ = ["Dataset", "open_dataset", "splits"]
