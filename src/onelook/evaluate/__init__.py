"""What detections are worth: the COCO protocol, results files, and running a model over a data set."""

from onelook.evaluate.coco import Evaluation, score
from onelook.evaluate.results import read_results, write_results
from onelook.evaluate.runner import evaluate
from onelook.evaluate.tables import GroundTruth, Results

__all__ = ["Evaluation", "GroundTruth", "Results", "evaluate", "read_results", "score", "write_results"]
