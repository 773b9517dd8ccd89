"""Data sets: readers for COCO, YOLO and Pascal VOC, their shared index, checks and conversion. None needs torch."""

from __future__ import annotations

from onelook.data.dataset import Dataset as Dataset
from onelook.data.dataset import open_dataset as open_dataset
from onelook.data.dataset import splits as splits

__all__ = ["Dataset", "open_dataset", "splits"]
