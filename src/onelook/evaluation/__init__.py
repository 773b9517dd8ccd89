"""What detections are worth: the COCO protocol, results files, and running a model over a data set."""

from onelook.evaluation.coco import Evaluation, score
from onelook.evaluation.results import read_results, write_results
from onelook.evaluation.runner import evaluate
from onelook.evaluation.tables import GroundTruth, Results

__all__ = ["Evaluation", "GroundTruth", "Results", "evaluate", "read_results", "score", "write_results"]
