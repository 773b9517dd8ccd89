"""`onelook.export`: a model for another runtime, verified against PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch

from onelook.api.checks import check_batch, check_thresholds
from onelook.api.export_int8 import Int8Settings, gain_note, open_quantization
from onelook.api.export_report import check_report, plan_report, write_report
from onelook.api.open import Model, PathLike, open_network
from onelook.config import check_arguments
from onelook.data import Dataset
from onelook.errors import ExportError, UsageError, UserError, did_you_mean
from onelook.exported import LEAST_RUNTIME, ExportedMetadata, Target
from onelook.exporting.describe import architecture_of
from onelook.exporting.target import ExportedFile, ExportOptions
from onelook.exporting.targets import INT8, NOT_IN_8_BITS, NOT_WRITTEN, TARGETS
from onelook.networks.build import build
from onelook.networks.detector import Architecture, Detector
from onelook.ops.nms import Nms
from onelook.reporter import PlainReporter, Reporter
from onelook.types import text_repr
from onelook.weights import load_weights
from onelook.weights.darknet import DarknetHeader, header_of, write_darknet

_KNOWN = (*TARGETS, "darknet")


@dataclass(frozen=True)
class ExportResult:
    """An exported file that was run and compared with PyTorch.

    exported: the file with its metadata, and the largest differences from PyTorch on the same images.
    format: the target, such as "onnx".  report: the HTML page about the file, where one was asked for.
    """

    exported: ExportedFile
    format: str
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        metadata, agreement = self.exported.metadata, self.exported.agreement
        return {
            "file": str(self.exported.path),
            "format": self.format,
            "model": metadata.model,
            "size": list(metadata.size),
            "batch": metadata.batch,
            "precision": metadata.precision,
            "outputs": metadata.outputs,
            "nms": dict(metadata.nms) if metadata.nms else None,
            "files": [str(file) for file in (self.exported.path, *self.exported.beside)],
            "bytes": self.exported.bytes,
            "largest_box_difference": agreement.box,
            "largest_box_difference_of_confident_rows": agreement.confident_box,
            "largest_score_difference": agreement.score,
            "images": agreement.images,
            "rows": agreement.rows,
            "confident_rows": agreement.confident_rows,
            "best_score": agreement.best_score,
            "least_runtime": self.exported.least_runtime or None,
            "verified_in": self.exported.runs_in or None,
            "int8": None if self.exported.int8 is None else self.exported.int8.to_dict(),
            "notes": list(self.exported.notes),
            "report": None if self.report is None else str(self.report),
        }

    @property
    def path(self) -> Path:
        """The written file."""
        return self.exported.path

    __repr__ = text_repr

    def __str__(self) -> str:
        metadata, agreement = self.exported.metadata, self.exported.agreement
        return f"Exported {metadata.model} to {self.path}; verified on {agreement}"


@dataclass(frozen=True)
class WrittenWeights:
    """A weights file for another program. It was read back and compared number by number.

    path: the file.  model: name of the model.  format: the target.  tensors: how many were compared.  seen: images seen
    in training, as the file records it.
    """

    path: Path
    model: str
    format: str
    tensors: int
    seen: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "file": str(self.path),
            "format": self.format,
            "model": self.model,
            "bytes": self.path.stat().st_size,
            "tensors": self.tensors,
            "seen": self.seen,
        }

    __repr__ = text_repr

    def __str__(self) -> str:
        return f"Exported {self.model} to {self.path}: {self.tensors} tensors read back identical"


@overload
def export(
    model: Model,
    target: Literal["darknet"],
    *,
    weights: PathLike | None = ...,
    out: PathLike | None = ...,
    overwrite: bool = ...,
) -> WrittenWeights: ...
@overload
def export(
    model: Model,
    target: Literal["onnx", "openvino", "ncnn", "litert", "torch", "tensorrt"] = ...,
    *,
    weights: PathLike | None = ...,
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
    report: PathLike | None = ...,
    report_data: Dataset | PathLike | None = ...,
    reporter: Reporter | None = ...,
) -> ExportResult: ...
@overload
def export(
    model: Model,
    target: Target = ...,
    *,
    weights: PathLike | None = ...,
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
    report: PathLike | None = ...,
    report_data: Dataset | PathLike | None = ...,
    reporter: Reporter | None = ...,
) -> ExportResult | WrittenWeights: ...
def export(
    model: Model,
    target: Target = "onnx",
    *,
    weights: PathLike | None = None,
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
    reporter: Reporter | None = None,
) -> ExportResult | WrittenWeights:
    """Writes a model for another runtime, runs the file, and compares it with PyTorch.

    model: a name, a weights file, the folder of a run, a `Detector` or a loaded detector.  target: "onnx", "openvino",
    "ncnn", "litert" (.tflite), "torch" (.pt2 of torch.export), "tensorrt", or "darknet" (.weights of a YOLOv4 model in
    its training form; takes only `out` and `overwrite`).  weights: for a model given by name; "none" exports it
    untrained.  nms: builds postprocessing in, so that the file returns final detections; with least score `confidence`,
    greatest overlap `iou` and at most `limit` detections an image.
    half: float16.  dynamic: any batch size, instead of `batch`.  size: of the input; None is the model's own,
    and of an exported ONNX file that file's.
    int8: convolutions in 8 bits (ONNX, OpenVINO, TensorRT), with ranges from `calibration_images` images of the
    training split of the data set `calibrate`. Those that cost most stay in float until the AP on its validation split
    is at most `max_drop` points (1 is 0.01) below the float file's.
    least_runtime: the oldest ONNX Runtime that is to read an ONNX file.  out: the file to write; None is the model's
    name in the current folder.  overwrite: replace a file that is there already.
    report: an HTML page to write about the file: differences from PyTorch by output, AP, latency, sizes, versions, and
    how to run it.  report_data: the data set whose validation split gives its AP, up to 300 images; None is that of
    `calibrate`, or no AP.  reporter: shows how an 8-bit export and a report advance.

    OpenCV's DNN module (4.8 to 5.0) reads ONNX files without `nms`, of a fixed batch.
    The file appears only after it was verified: ExportError where it does not agree with PyTorch. UserError where the
    file exists already and `overwrite` is not set. ExportError, with all that was tried, where no 8-bit file loses as
    little as `max_drop`; MissingDependencyError without the extra `int8` for OpenVINO in 8 bits.
    """
    _check_known(target)
    check_arguments(export, locals())
    settings = Int8Settings(calibrate=calibrate, calibration_images=calibration_images, max_drop=max_drop)
    if int8 and target not in INT8:
        raise UsageError(*NOT_IN_8_BITS[target])
    settings.check(int8=int8, half=half)
    check_report(report, data=report_data, overwrite=overwrite)
    if target == "darknet":
        _refuse_settings_of_darknet(half=half, nms=nms, dynamic=dynamic, size=size, report=report)
    check_batch(batch)
    check_thresholds(confidence, iou)
    sides = (size, size) if isinstance(size, int) else size
    options = ExportOptions(half=half, dynamic=dynamic, batch=batch, size=sides, least_runtime=least_runtime)
    if nms:
        options = replace(options, nms=Nms(confidence, iou, limit=limit))
    if target != "darknet":
        if int8:
            INT8[target].check(options)  # first: its extra has the packages of both
        TARGETS[target].check(options)
    untrained = weights == "none"
    opened = open_network(model, None if untrained else weights, untrained=untrained)
    detector = opened.detector
    suffix = ".weights" if target == "darknet" else TARGETS[target].default_suffix or TARGETS[target].suffix
    path = Path(out) if out is not None else Path(opened.name + suffix)
    sources = [Path(one).resolve() for one in (model, weights) if isinstance(one, str | os.PathLike)]
    written = (path,) if target == "darknet" else TARGETS[target].files(path)
    for file in written:
        if file.resolve() in sources:
            raise UserError(f"The export would overwrite '{file}', which it is made of.", "Give another file.")
        if file.exists() and not overwrite:
            remedy = "Choose another file with --out, or replace this one with --overwrite (in Python: overwrite=True)."
            raise UserError(f"'{file}' exists already.", remedy)
    if target == "darknet":
        return _write_darknet(detector, path, sources, opened.name)
    multi_label = getattr(detector.architecture, "multi_label", False)
    inside = None if options.nms is None else replace(options.nms, multi_label=multi_label)
    options = replace(options, nms=inside, size=options.size or opened.size)
    shown = reporter or PlainReporter()
    plan = None
    if report is not None:
        plan = plan_report(Path(report), calibrate if report_data is None else report_data, detector.class_names, shown)
    written_file = _write(detector, path, target, options, int8=settings if int8 else None, reporter=shown)
    notes = (*written_file.notes, *_not_kept(opened.exported, written_file.metadata))
    written_file = replace(written_file, notes=notes)
    page = None
    if plan is not None:
        measured = report_data is None and written_file.int8 is not None
        page = write_report(plan, detector, written_file, target, shown, measured=measured)
    return ExportResult(written_file, target, page)


def _write(
    detector: Detector,
    path: Path,
    target: str,
    options: ExportOptions,
    *,
    int8: Int8Settings | None,
    reporter: Reporter,
) -> ExportedFile:
    """Writes and verifies the file. int8: of an 8-bit file."""
    if int8 is None:
        return TARGETS[target].write(detector, path, options)
    architecture = architecture_of(detector)
    quantization = open_quantization(int8, architecture.frame, options.size or architecture.size, reporter)
    written = INT8[target].write(detector, path, options, quantization)
    gain = () if written.int8 is None else gain_note(written.int8)
    return replace(written, notes=(*written.notes, *gain))


def _not_kept(before: ExportedMetadata | None, after: ExportedMetadata) -> tuple[str, ...]:
    """A note of the settings that an exported file had and the one made of it has not, unless another was chosen."""
    if before is None:
        return ()
    lost = []
    if before.nms is not None:
        values = {key: before.nms[key] for key in ("confidence", "iou", "limit")}
        if after.nms is None or any(after.nms[key] != value for key, value in values.items()):
            lost.append(f"NMS ({', '.join(f'{key} {value:g}' for key, value in values.items())})")
    if before.batch != after.batch == 1:
        lost.append(f"batch {before.batch or 'of any size'}")
    if before.precision != after.precision == "float32":
        lost.append(before.precision)
    return (f"not kept of the given file: {', '.join(lost)}; give these settings again to keep them",) if lost else ()


def _write_darknet(detector: Detector, path: Path, sources: list[Path], name: str) -> WrittenWeights:
    """The file, with the header of the Darknet file that the weights come from, if they do; read back and compared."""
    headers = (header_of(source) for source in sources if source.is_file())
    header = next((one for one in headers if one is not None), DarknetHeader())
    write_darknet(detector, path, header)
    copy = build(cast(Architecture, detector.architecture))
    load_weights(copy, path)
    state = copy.state_dict()
    wrong = [
        key
        for key, tensor in detector.state_dict().items()
        if tensor.is_floating_point() and not torch.equal(tensor.float(), state[key])
    ]
    if wrong:
        raise ExportError(f"'{path}' does not read back: {wrong[0]} differs.", "Try again, to another place.")
    return WrittenWeights(path, name, "darknet", len(state), header.seen)


def _refuse_settings_of_darknet(**given: object) -> None:
    """UsageError for a setting that a Darknet file cannot have."""
    name = next((name for name, value in given.items() if value), None)
    if name is not None:
        raise UsageError(f"A Darknet file holds float32 weights only: --{name} cannot be chosen.", "Leave it away.")


def _check_known(target: str) -> None:
    """UsageError for a target that does not exist; with the reason, where users ask for it."""
    name = target.lower().replace("-", "").replace("_", "") if isinstance(target, str) else ""
    if name in NOT_WRITTEN:
        remedy = "Export to onnx, or to litert or ncnn for small devices."
        raise UsageError(f"This version writes no {target} files: {NOT_WRITTEN[name]}.", remedy)
    if isinstance(target, str) and target not in _KNOWN:
        raise UsageError(
            f"There is no target '{target}'.{did_you_mean(target, _KNOWN)}", f"Give one of: {', '.join(_KNOWN)}."
        )
