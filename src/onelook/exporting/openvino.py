"""Exports a detector to the format of OpenVINO, through ONNX."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onelook.errors import missing_package
from onelook.exported import METADATA_KEY, ExportedMetadata
from onelook.exporting.graph import ExportGraph
from onelook.exporting.nms import ROW_OUTPUTS
from onelook.exporting.onnx import OUTPUTS, export_onnx
from onelook.exporting.runtime import runner_of
from onelook.exporting.target import ExportedFile, ExportOptions, TargetFormat, check_place, drafted
from onelook.exporting.verify import verify_detections, verify_rows
from onelook.networks.detector import Detector
from onelook.predict.runtimes.openvino import OpenvinoRuntime

_SETTINGS = ("confidence", "iou")


def export_openvino(detector: Detector, path: str | Path, options: ExportOptions) -> ExportedFile:
    """Exports to `path` (.xml) and a weights file beside it (.bin), and verifies them in OpenVINO on the CPU.

    half: float16 weights; the device chooses the precision of the computation. With NMS inside, `confidence` and `iou`
    are inputs that have to be given, because OpenVINO has no optional ones. The metadata (`onelook.exported`) is in
    the runtime information under `METADATA_KEY`. MissingDependencyError without the `openvino` extra.
    """
    if find_spec("openvino") is None:
        raise missing_package("openvino", "Exporting to OpenVINO")
    import openvino

    path = Path(path)
    check_place(path, ".xml", "an OpenVINO model")
    with drafted(path, (".bin",)) as draft:
        # In float32: save_model rounds the weights for `half`, and keeps those in float32 that would overflow.
        source = export_onnx(
            detector,
            draft.with_suffix(".onnx"),
            nms=options.nms,
            dynamic=options.dynamic,
            batch=options.batch,
            size=options.size,
        )
        metadata = replace(source.metadata, precision="float16" if options.half else "float32")
        model = openvino.convert_model(_without_defaults(source.path) if metadata.nms else str(source.path))
        _save(model, metadata, draft)
        runtime = OpenvinoRuntime(draft, "cpu")
        reference = ExportGraph(detector)
        if metadata.nms is None:
            agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, reference, metadata)
        else:
            with_rows = draft.with_name("rows.xml")
            model.add_outputs(list(ROW_OUTPUTS))
            _save(model, metadata, with_rows)
            rows_runtime = OpenvinoRuntime(with_rows, "cpu")
            agreement, rows = verify_rows(runner_of(rows_runtime), ROW_OUTPUTS, reference, metadata)
            verify_detections(runner_of(runtime), metadata, rows)
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, beside=(path.with_suffix(".bin"),))


def _save(model: Any, metadata: ExportedMetadata, path: Path) -> None:
    import openvino

    model.set_rt_info(metadata.to_json(), [METADATA_KEY])
    openvino.save_model(model, str(path), compress_to_fp16=metadata.precision == "float16")


def _without_defaults(path: Path) -> str:
    """The ONNX file with the settings of NMS as inputs only: the converter takes defaults for constants."""
    import onnx

    model = onnx.load(str(path))
    kept = [constant for constant in model.graph.initializer if constant.name not in _SETTINGS]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    changed = path.with_name("settings.onnx")
    onnx.save(model, str(changed))
    return str(changed)


def _check(options: ExportOptions) -> None:
    if find_spec("openvino") is None:
        raise missing_package("openvino", "Exporting to OpenVINO")


OPENVINO = TargetFormat("openvino", ".xml", (".bin",), _check, export_openvino)
