"""`onelook.load`: a detector that is ready to detect, and can be validated, exported and trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

from onelook.api.open import LoadOptions, Model, OpenedPredictor, PathLike, check_torch
from onelook.api.runtime_choice import open_cached
from onelook.config import check_arguments
from onelook.errors import UsageError
from onelook.exported import LEAST_RUNTIME, Target
from onelook.ops.merge import MergeKind
from onelook.ops.tile_grid import OVERLAP
from onelook.predict.tiles import MERGE
from onelook.reporter import Reporter, SilentReporter
from onelook.training.result import RunResult

if TYPE_CHECKING:
    from onelook.api.export import ExportResult, WrittenWeights
    from onelook.api.recipe_choice import RecipeChoice
    from onelook.data import Dataset
    from onelook.evaluation import Evaluation
    from onelook.predict.runtime import PostprocessKind
    from onelook.training.recipe import Recipe
    from onelook.training.train_state import Precision


class LoadedDetector(OpenedPredictor):
    """A detector that is ready to be used: what `onelook.load` returns.

    `detect` takes images, `stream` files, folders, videos and cameras. `validate` measures it, `export` writes it for
    another runtime, `train` trains a copy of it. It is made of a file or of a `Detector` in memory, which stays as it
    is.
    """

    def validate(
        self,
        data: Dataset | PathLike,
        *,
        split: str = "val",
        confidence: float = 0.01,
        iou: float = 0.65,
        postprocess: PostprocessKind | None = None,
        batch: int = 8,
        rectangular: bool = False,
        tile: int | None = None,
        overlap: float = OVERLAP,
        tile_merge: MergeKind = MERGE,
        detections: PathLike | None = None,
        report: PathLike | None = None,
        overwrite: bool = False,
        reporter: Reporter | None = None,
    ) -> Evaluation:
        """The average precision on a data set: see `onelook.validate`."""
        from onelook.api.validate import validate

        return validate(
            self,
            data,
            split=split,
            confidence=confidence,
            iou=iou,
            postprocess=postprocess,
            batch=batch,
            rectangular=rectangular,
            tile=tile,
            overlap=overlap,
            tile_merge=tile_merge,
            detections=detections,
            report=report,
            overwrite=overwrite,
            reporter=reporter,
        )

    @overload
    def export(
        self, target: Literal["darknet"], *, out: PathLike | None = ..., overwrite: bool = ...
    ) -> WrittenWeights: ...
    @overload
    def export(
        self,
        target: Literal["onnx", "openvino", "ncnn", "litert", "torch", "tensorrt"] = ...,
        *,
        nms: bool = ...,
        half: bool = ...,
        int8: bool = ...,
        calibrate: Dataset | PathLike | None = ...,
        calibration_images: int = ...,
        max_drop: float = ...,
        dynamic: bool = ...,
        batch: int = ...,
        size: int | tuple[int, int] | None = ...,
        confidence: float = ...,
        iou: float = ...,
        limit: int = ...,
        least_runtime: str = ...,
        out: PathLike | None = ...,
        overwrite: bool = ...,
    ) -> ExportResult: ...
    def export(
        self,
        target: Target = "onnx",
        *,
        nms: bool = False,
        half: bool = False,
        int8: bool = False,
        calibrate: Dataset | PathLike | None = None,
        calibration_images: int = 300,
        max_drop: float = 1.0,
        dynamic: bool = False,
        batch: int = 1,
        size: int | tuple[int, int] | None = None,
        confidence: float = 0.25,
        iou: float = 0.45,
        limit: int = 300,
        least_runtime: str = LEAST_RUNTIME,
        out: PathLike | None = None,
        overwrite: bool = False,
        report: PathLike | None = None,
        report_data: Dataset | PathLike | None = None,
    ) -> ExportResult | WrittenWeights:
        """Writes the model for another runtime and verifies it: see `onelook.export`. Needs the extra `onnx`."""
        check_torch("LoadedDetector.export")
        from onelook.api.export import export

        return export(
            self,
            target,
            nms=nms,
            half=half,
            int8=int8,
            calibrate=calibrate,
            calibration_images=calibration_images,
            max_drop=max_drop,
            dynamic=dynamic,
            batch=batch,
            size=size,
            confidence=confidence,
            iou=iou,
            limit=limit,
            least_runtime=least_runtime,
            out=out,
            overwrite=overwrite,
            report=report,
            report_data=report_data,
        )

    def train(
        self,
        data: Dataset | PathLike,
        recipe: Recipe | RecipeChoice | PathLike | None = None,
        *,
        epochs: int | None = None,
        budget: str | None = None,
        size: int | None = None,
        batch: int | Literal["auto"] | None = None,
        split: str | None = None,
        validation: Dataset | str | None = None,
        out: PathLike | None = None,
        device: str | None = None,
        workers: int | None = None,
        cache: str | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        log: str | Sequence[str] = (),
        reporter: Reporter | None = None,
    ) -> TrainResult:
        """Trains a detector that starts from these weights; this one stays as it is. See `onelook.train`.

        recipe: None is the published training of this model, fitted to the data, in 50 epochs unless `epochs` or a
        `budget` is given.

        UsageError for exported files, which hold no weights that can be trained.
        """
        check_torch("LoadedDetector.train")
        from onelook.api.open import open_network
        from onelook.api.recipe_choice import RecipeChoice, named_choice
        from onelook.api.training_session import TrainOptions, start_training
        from onelook.training.options import RunOptions
        from onelook.training.run import fit
        from onelook.weights.identify import model_name

        detector = open_network(self).detector
        assert detector.architecture is not None  # `open_network` has checked it
        options = TrainOptions(
            run=RunOptions(
                device=device,
                train_split=split,
                workers=workers,
                cache=cache,
                precision=precision,
                threads=threads,
                budget=budget,
            ),
            validation=validation,
            weights=detector,
            out=out,
            log=log,
            reporter=reporter,
        )
        recipe = RecipeChoice(model=model_name(detector.architecture)) if recipe is None else recipe
        choice = named_choice(recipe, epochs=epochs, size=size, batch=batch)
        with start_training(choice, data, options) as session:
            remedy, choice_of_threads = session.slow_loader_remedy, session.threads
            result = fit(
                session.run, session.batches, session.evaluate, slow_loader_remedy=remedy, threads=choice_of_threads
            )
            session.finish(result)
        return TrainResult(**vars(result))


class TrainResult(RunResult):
    """The result of `onelook.train`: numbers, files, and the trained detector."""

    @cached_property
    def detector(self) -> LoadedDetector:
        """The detector with the best weights, loaded at its first use; UserError where the run has written none."""
        return load(self.weights)


def load(
    model: Model,
    weights: PathLike | None = None,
    device: str | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    tta: bool = False,
    half: bool = False,
    threads: int | None = None,
    runtime: Literal["torch", "onnx"] = "torch",
) -> LoadedDetector:
    """A detector that is ready to be used.

    model: a variant's name (with `weights`), a weights file, an exported file (.onnx, .xml, .param, .tflite, .pt2,
    .engine), the folder of a run (its `best.safetensors`), or a `Detector` in memory.  device: "cpu", "cuda", "cuda:1",
    "mps"; None is the best one, for an exported file its runtime's default.  size: side or (height, width) of the
    network's input; None is what the weights were made for.  tta: test-time augmentation: every image is looked
    at in three scales, once mirrored.  half: float16, on a GPU only, or in the runtimes of OpenVINO and ncnn; boxes are
    computed in float32.
    threads: of one run on a CPU, for the whole process where PyTorch runs; None is as many as there are free cores.
    runtime: what runs weights; "onnx" is ONNX Runtime on a CPU, with the file that `onelook.detect` caches beside the
    weights, made where it is not there.

    Exported files need no `weights`, and except for .pt2 no PyTorch. Raises UserError for a model that does not exist,
    weights that do not fit, a device that does not exist, a size that is no multiple of the network's stride.
    """
    check_arguments(load, locals())
    options = LoadOptions(weights=weights, device=device, size=size, tta=tta, half=half, threads=threads)
    opened = open_cached(model, options, runtime, SilentReporter())
    if isinstance(opened, LoadedDetector):
        return opened
    source = opened.source if isinstance(opened, OpenedPredictor) else None
    if source is None:
        raise UsageError("A Predictor is loaded already.", "Use it as it is, or give its model to onelook.load().")
    return LoadedDetector(opened.runtime, source, batch=opened.batch)
