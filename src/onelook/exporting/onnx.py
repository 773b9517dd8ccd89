"""Exports a detector to ONNX, with the exporter based on torch.export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onelook.errors import ExportError, missing_package
from onelook.exported import LEAST_RUNTIME, METADATA_KEY, ExportedMetadata
from onelook.exporting.describe import architecture_of, describe
from onelook.exporting.graph import ExportGraph
from onelook.exporting.nms import ROW_OUTPUTS, append_nms
from onelook.exporting.runtime import onnx_runner
from onelook.exporting.target import (
    ExportedFile,
    ExportOptions,
    TargetFormat,
    replacing_or_export_error,
    unwritable,
)
from onelook.exporting.verify import Agreement, verify_detections, verify_rows
from onelook.networks.detector import Detector
from onelook.ops.nms import Nms
from onelook.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # native to the exporter; newer opsets are conversions that few runtimes need
IR_VERSIONS = {"1.14": 8, "1.15": 9, "1.18": 10}  # the newest that ONNX Runtime reads from this version on
LARGEST_BATCH = 1024
DEFAULT_LIMIT = 300
OUTPUTS = ("boxes", "scores")


def ir_version(least_runtime: str) -> int:
    """The ONNX IR version that ONNX Runtime reads from this version ("1.15") on. ExportError where it is too old."""
    parts = least_runtime.split(".")
    if not 2 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise ExportError(f"'{least_runtime}' is not a version of ONNX Runtime.", "Give one such as 1.15.")
    wanted = (int(parts[0]), int(parts[1]))
    read = [version for name, version in IR_VERSIONS.items() if tuple(map(int, name.split("."))) <= wanted]
    if not read:
        raise ExportError(
            f"ONNX Runtime {least_runtime} does not run the operators of these files (opset {OPSET}).",
            f"It needs {LEAST_RUNTIME} or newer.",
        )
    return max(read)


def export_onnx(
    detector: Detector,
    path: str | Path,
    *,
    nms: Nms | None = None,
    half: bool = False,
    dynamic: bool = False,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    least_runtime: str = LEAST_RUNTIME,
) -> ExportedFile:
    """Exports the deploy form of `detector` to an ONNX file and verifies it.

    nms: NMS inside the file (`limit` None becomes 300); None gives boxes and scores of all rows. With a model that was
    trained one to one, the file gives the best rows and suppresses none.
    half: float16 weights and features.  dynamic: any batch size; else exactly `batch`.  size: (height, width) of the
    input, None is the architecture's.  least_runtime: the oldest ONNX Runtime that is to read the file. The interface
    of the file is described in `onelook.exported`.

    The file appears at `path` only after it ran in ONNX Runtime and agreed with PyTorch; otherwise ExportError, and
    an older file stays. MissingDependencyError without the `onnx` extra.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_package(package, "Exporting to ONNX", work="export")
    ir = ir_version(least_runtime)
    path = Path(path)
    if not path.parent.is_dir():
        raise ExportError(f"The folder '{path.parent}' does not exist.", "Create it, or export to another place.")
    architecture = architecture_of(detector)
    if nms is not None and nms.limit is None:
        nms = replace(nms, limit=DEFAULT_LIMIT)
    if nms is not None and getattr(architecture, "one_to_one", False):
        nms = replace(nms, iou=1.0, agnostic=False)
    metadata = describe(detector, ExportOptions(half=half, dynamic=dynamic, batch=batch, size=size))
    with replacing_or_export_error(path) as draft:
        agreement, metadata = _write_verified(detector, draft, metadata, nms, ir)
    return ExportedFile(path, metadata, agreement, least_runtime)


def _check(options: ExportOptions) -> None:
    ir_version(options.least_runtime)


def _write_target(detector: Detector, path: Path, options: ExportOptions) -> ExportedFile:
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    return export_onnx(detector, path, **given)


ONNX = TargetFormat("onnx", ".onnx", (), _check, _write_target)


def _write_verified(
    detector: Detector, draft: Path, metadata: ExportedMetadata, nms: Nms | None, ir: int
) -> tuple[Agreement, ExportedMetadata]:
    """Writes the file and verifies it: all rows against PyTorch, with NMS its detections too."""
    graph = ExportGraph(detector, half=metadata.precision == "float16")
    reference = ExportGraph(detector)
    if nms is None:
        model = to_model(graph, metadata.size, metadata.batch, OUTPUTS)
        write_model(model, metadata, draft, ir)
        return verify_rows(onnx_runner(draft), OUTPUTS, reference, metadata)[0], metadata
    model = to_model(graph, metadata.size, metadata.batch, ROW_OUTPUTS)
    agreement, rows = verify_rows(onnx_runner(model.SerializeToString()), ROW_OUTPUTS, reference, metadata)
    num_rows = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    suppress = not metadata.one_to_one
    limit = append_nms(model, nms, num_rows, metadata.num_classes, suppress=suppress)
    metadata = replace(metadata, outputs="detections", multi_label=nms.multi_label, nms=nms_settings(nms, limit))
    write_model(model, metadata, draft, ir)
    verify_detections(onnx_runner(draft), metadata, rows)
    return agreement, metadata


def to_model(
    graph: ExportGraph, size: tuple[int, int], batch: int | None, outputs: tuple[str, str] = OUTPUTS
) -> ModelProto:
    """Converts `graph` to an ONNX model; `outputs` names boxes and scores; batch None is any size. Prints nothing."""
    images = torch.zeros((batch or 2, 3, *size))  # 2, because a traced 1 would become a constant
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}} if batch is None else None
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            optimize=True,  # which PyTorch 2.6 leaves away: sequences would remain that OpenCV does not read
            verbose=False,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
        )
    assert program is not None  # None only where a file name was given
    model = program.model_proto
    _strip(model)
    return model


def _strip(model: ModelProto) -> None:
    """Removes the source lines and local paths that the exporter stores in every node."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.metadata_props[:]


def nms_settings(nms: Nms, limit: int) -> dict[str, Any]:
    """NMS as the metadata of a file has it."""
    return {
        "confidence": nms.confidence,
        "iou": nms.iou,
        "agnostic": nms.agnostic,
        "multi_label": nms.multi_label,
        "limit": limit,
    }


def write_model(model: ModelProto, metadata: ExportedMetadata, path: Path, ir: int) -> None:
    """Writes a model with its metadata, in this IR version. ExportError where it is not valid or cannot be written."""
    import onnx

    model.ir_version = ir
    model.producer_name, model.producer_version = "onelook", __version__
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, metadata.to_json()
    try:
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported graph is not valid ONNX: {error}") from error
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings and log lines of the exporter, which concern its internals and unused packages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
