"""Evaluation of detections: the COCO protocol, results files, and running a model over a data set.

Names are imported on first use: scoring a results file needs neither OpenCV nor the code that runs models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onelook.evaluation.coco import Evaluation as Evaluation
    from onelook.evaluation.coco import score as score
    from onelook.evaluation.results import read_results as read_results
    from onelook.evaluation.results import write_results as write_results
    from onelook.evaluation.runner import evaluate as evaluate
    from onelook.evaluation.tables import GroundTruth as GroundTruth
    from onelook.evaluation.tables import Results as Results

_MODULES = {
    "Evaluation": "coco",
    "GroundTruth": "tables",
    "Results": "tables",
    "evaluate": "runner",
    "read_results": "results",
    "score": "coco",
    "write_results": "results",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
