"""COCO annotation files of unknown quality, read as a ground truth without the images they describe."""

from __future__ import annotations

from pathlib import Path

from onelook.data.coco_file import CocoFile
from onelook.data.problems import Problems
from onelook.evaluation.tables import GroundTruth


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Reads a COCO instances file; memory is about 80 bytes an annotation, outlines are passed over.

    Raises DataError naming the file and the entry, as `GroundTruth.from_coco` does.
    """
    return GroundTruth.from_content(CocoFile(path, Problems(), boxes_only=True).read())
