"""Onelook: real-time object detection, the systems of four papers in one library of shared parts.

Every public name is imported on its first use, so that detecting with an exported model needs no PyTorch.
"""

from __future__ import annotations

from onelook.version import __version__ as __version__

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than all that stands here

if TYPE_CHECKING:  # what type checkers and editors see; `_PUBLIC` below is the same at run time, a test compares both
    from onelook.api.anchors import FoundAnchors as FoundAnchors
    from onelook.api.anchors import anchors as anchors
    from onelook.api.bench import ModelBenchmark as ModelBenchmark
    from onelook.api.bench import benchmark as benchmark
    from onelook.api.check import Environment as Environment
    from onelook.api.check import check as check
    from onelook.api.check import environment as environment
    from onelook.api.compare import compare as compare
    from onelook.api.convert import convert as convert
    from onelook.api.detect import DetectResult as DetectResult
    from onelook.api.detect import detect as detect
    from onelook.api.detect_shards import ShardsResult as ShardsResult
    from onelook.api.detect_shards import detect_shards as detect_shards
    from onelook.api.diff import RecipeDiff as RecipeDiff
    from onelook.api.diff import diff as diff
    from onelook.api.edit import edit as edit
    from onelook.api.export import ExportResult as ExportResult
    from onelook.api.export import WrittenWeights as WrittenWeights
    from onelook.api.export import export as export
    from onelook.api.live import LiveSummary as LiveSummary
    from onelook.api.load import LoadedDetector as LoadedDetector
    from onelook.api.load import TrainResult as TrainResult
    from onelook.api.load import load as load
    from onelook.api.models import ModelInfo as ModelInfo
    from onelook.api.models import ModelList as ModelList
    from onelook.api.models import PrintedRow as PrintedRow
    from onelook.api.models import models as models
    from onelook.api.open import Model as Model
    from onelook.api.open import PathLike as PathLike
    from onelook.api.recipe_choice import RecipeChoice as RecipeChoice
    from onelook.api.recipes import recipe as recipe
    from onelook.api.roadmap import RoadmapList as RoadmapList
    from onelook.api.roadmap import roadmap as roadmap
    from onelook.api.roadmap import roadmaps as roadmaps
    from onelook.api.score import score as score
    from onelook.api.score import score_tracks as score_tracks
    from onelook.api.search import SearchResult as SearchResult
    from onelook.api.search import SearchRow as SearchRow
    from onelook.api.search import search as search
    from onelook.api.serve import ServeResult as ServeResult
    from onelook.api.serve import serve as serve
    from onelook.api.split import split as split
    from onelook.api.stream import stream as stream
    from onelook.api.train import train as train
    from onelook.api.tune import TuneResult as TuneResult
    from onelook.api.tune import tune as tune
    from onelook.api.validate import validate as validate
    from onelook.api.view import ViewResult as ViewResult
    from onelook.api.view import view as view
    from onelook.config import Difference as Difference
    from onelook.config import change as change
    from onelook.config import override as override
    from onelook.data import Dataset as Dataset
    from onelook.data import open_dataset as open_dataset
    from onelook.data.check import CheckReport as CheckReport
    from onelook.data.convert import Conversion as Conversion
    from onelook.data.convert import WritableFormat as WritableFormat
    from onelook.data.editing import EditResult as EditResult
    from onelook.data.splitting import SplitResult as SplitResult
    from onelook.devices import Layout as Layout
    from onelook.devices import Precision as Precision
    from onelook.errors import UserError as UserError
    from onelook.evaluation import Evaluation as Evaluation
    from onelook.evaluation.coco import Verdicts as Verdicts
    from onelook.evaluation.operating import OperatingPoint as OperatingPoint
    from onelook.evaluation.tracks import TrackEvaluation as TrackEvaluation
    from onelook.networks.build import build as build
    from onelook.networks.deploy import deploy as deploy
    from onelook.networks.detector import Detector as Detector
    from onelook.predict.given_image import ImageLike as ImageLike
    from onelook.predict.live import LiveDetections as LiveDetections
    from onelook.predict.predictor import Predictor as Predictor
    from onelook.predict.runtime import PostprocessKind as PostprocessKind
    from onelook.recipes.records import PrintedTable as PrintedTable
    from onelook.recipes.records import printed_table as printed_table
    from onelook.report.comparison import Comparison as Comparison
    from onelook.report.roadmap import RoadmapTable as RoadmapTable
    from onelook.report.streaming import Streaming as Streaming
    from onelook.reporter import PlainReporter as PlainReporter
    from onelook.reporter import Reporter as Reporter
    from onelook.reporter import SilentReporter as SilentReporter
    from onelook.tracking.byte_track import ByteTrack as ByteTrack
    from onelook.tracking.oc_sort import OcSort as OcSort
    from onelook.tracking.tracker import ForecastName as ForecastName
    from onelook.tracking.tracker import TrackerName as TrackerName
    from onelook.training.recipe import Recipe as Recipe
    from onelook.types import Detections as Detections
    from onelook.types import Sample as Sample
    from onelook.weights import LoadReport as LoadReport
    from onelook.weights import load_weights as load_weights
    from onelook.weights import save_weights as save_weights

_PUBLIC = {
    "ByteTrack": "onelook.tracking.byte_track",
    "CheckReport": "onelook.data.check",
    "Comparison": "onelook.report.comparison",
    "Conversion": "onelook.data.convert",
    "Dataset": "onelook.data",
    "DetectResult": "onelook.api.detect",
    "Detections": "onelook.types",
    "Detector": "onelook.networks.detector",
    "Difference": "onelook.config",
    "EditResult": "onelook.data.editing",
    "Environment": "onelook.api.check",
    "Evaluation": "onelook.evaluation",
    "ExportResult": "onelook.api.export",
    "ForecastName": "onelook.tracking.tracker",
    "FoundAnchors": "onelook.api.anchors",
    "ImageLike": "onelook.predict.given_image",
    "Layout": "onelook.devices",
    "LiveDetections": "onelook.predict.live",
    "LiveSummary": "onelook.api.live",
    "LoadReport": "onelook.weights",
    "LoadedDetector": "onelook.api.load",
    "Model": "onelook.api.open",
    "ModelBenchmark": "onelook.api.bench",
    "ModelInfo": "onelook.api.models",
    "ModelList": "onelook.api.models",
    "OcSort": "onelook.tracking.oc_sort",
    "OperatingPoint": "onelook.evaluation.operating",
    "PathLike": "onelook.api.open",
    "PlainReporter": "onelook.reporter",
    "PostprocessKind": "onelook.predict.runtime",
    "Precision": "onelook.devices",
    "Predictor": "onelook.predict.predictor",
    "PrintedRow": "onelook.api.models",
    "PrintedTable": "onelook.recipes.records",
    "Recipe": "onelook.training.recipe",
    "RecipeChoice": "onelook.api.recipe_choice",
    "RecipeDiff": "onelook.api.diff",
    "Reporter": "onelook.reporter",
    "RoadmapList": "onelook.api.roadmap",
    "RoadmapTable": "onelook.report.roadmap",
    "Sample": "onelook.types",
    "SearchResult": "onelook.api.search",
    "SearchRow": "onelook.api.search",
    "ServeResult": "onelook.api.serve",
    "ShardsResult": "onelook.api.detect_shards",
    "SilentReporter": "onelook.reporter",
    "SplitResult": "onelook.data.splitting",
    "Streaming": "onelook.report.streaming",
    "TrackEvaluation": "onelook.evaluation.tracks",
    "TrackerName": "onelook.tracking.tracker",
    "TrainResult": "onelook.api.load",
    "TuneResult": "onelook.api.tune",
    "UserError": "onelook.errors",
    "Verdicts": "onelook.evaluation.coco",
    "ViewResult": "onelook.api.view",
    "WritableFormat": "onelook.data.convert",
    "WrittenWeights": "onelook.api.export",
    "anchors": "onelook.api.anchors",
    "benchmark": "onelook.api.bench",
    "build": "onelook.networks.build",
    "change": "onelook.config",
    "check": "onelook.api.check",
    "compare": "onelook.api.compare",
    "convert": "onelook.api.convert",
    "deploy": "onelook.networks.deploy",
    "detect": "onelook.api.detect",
    "detect_shards": "onelook.api.detect_shards",
    "diff": "onelook.api.diff",
    "edit": "onelook.api.edit",
    "environment": "onelook.api.check",
    "export": "onelook.api.export",
    "load": "onelook.api.load",
    "load_weights": "onelook.weights",
    "models": "onelook.api.models",
    "open_dataset": "onelook.data",
    "override": "onelook.config",
    "printed_table": "onelook.recipes.records",
    "recipe": "onelook.api.recipes",
    "roadmap": "onelook.api.roadmap",
    "roadmaps": "onelook.api.roadmap",
    "save_weights": "onelook.weights",
    "score": "onelook.api.score",
    "score_tracks": "onelook.api.score",
    "search": "onelook.api.search",
    "serve": "onelook.api.serve",
    "split": "onelook.api.split",
    "stream": "onelook.api.stream",
    "train": "onelook.api.train",
    "tune": "onelook.api.tune",
    "validate": "onelook.api.validate",
    "view": "onelook.api.view",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


if not TYPE_CHECKING:  # a type checker would take every misspelt name for this function's result

    def __getattr__(name: str) -> object:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'onelook' has no attribute '{name}'")
        from importlib import import_module

        try:
            value = getattr(import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            from onelook.errors import EXTRAS, MissingNameError, missing_package

            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            missing = missing_package(package, f"onelook.{name}", work=name)
            raise MissingNameError(missing.message, missing.remedy) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
