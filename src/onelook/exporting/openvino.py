"""Exports a detector to the format of OpenVINO, through ONNX."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    path = Path(path)
    check_place(path, ".xml", "an OpenVINO model")
    with drafted(path, (".bin",)) as draft:
        source = convert(detector, draft.with_suffix(".onnx"), options)
        # save_model rounds the weights for `half`, and keeps those in float32 that would overflow.
        metadata = replace(source.metadata, precision="float16" if options.half else "float32")
        model = source.model()
        save(model, metadata, draft)
        runtime = OpenvinoRuntime(draft, "cpu")
        reference = ExportGraph(detector)
        if metadata.nms is None:
            agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, reference, metadata)
        else:
            with_rows = draft.with_name("rows.xml")
            model.add_outputs(list(ROW_OUTPUTS))
            save(model, metadata, with_rows)
            rows_runtime = OpenvinoRuntime(with_rows, "cpu")
            agreement, rows = verify_rows(runner_of(rows_runtime), ROW_OUTPUTS, reference, metadata)
            verify_detections(runner_of(runtime), metadata, rows)
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, beside=(path.with_suffix(".bin"),))


@dataclass(frozen=True)
class Source:
    """A verified ONNX file that OpenVINO converts. metadata: in float32."""

    path: Path
    metadata: ExportedMetadata

    def model(self) -> Any:
        """The OpenVINO model, converted anew."""
        import openvino

        return openvino.convert_model(_without_defaults(self.path) if self.metadata.nms else str(self.path))


def convert(detector: Detector, path: Path, options: ExportOptions) -> Source:
    """Writes the ONNX file, in float32 whatever the options say, that the OpenVINO model is made of."""
    source = export_onnx(
        detector, path, nms=options.nms, dynamic=options.dynamic, batch=options.batch, size=options.size
    )
    return Source(source.path, replace(source.metadata, precision="float32"))


def save(model: Any, metadata: ExportedMetadata, path: Path) -> None:
    """Writes an OpenVINO model with its metadata."""
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
