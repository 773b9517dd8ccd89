"""Exports a detector for TensorRT in 8 bits: an ONNX file with its ranges, which the engine is built of."""

from __future__ import annotations

import tempfile
from pathlib import Path

from onelook.exporting.int8 import Int8Format, Quantization
from onelook.exporting.onnx_int8 import ONNX_INT8, QdqModel
from onelook.exporting.target import ExportedFile, ExportOptions, check_place, refuse_nms, replacing_or_export_error
from onelook.exporting.tensorrt import finish_tensorrt
from onelook.networks.detector import Detector


def export_tensorrt_int8(
    detector: Detector, path: Path, options: ExportOptions, quantization: Quantization
) -> ExportedFile:
    """Writes the network as ONNX in 8 bits, judged and verified in ONNX Runtime, and where there is a GPU, the engine.

    The calibrated ranges are nodes of the file (QuantizeLinear, DequantizeLinear) in the form that TensorRT takes: zero
    in the middle, biases in float. A strongly typed engine computes in exactly these precisions, so that the builder
    calibrates nothing itself.
    """
    _check(options)
    check_place(path, ".engine", "a TensorRT engine")
    source = path.with_suffix(".onnx")
    with replacing_or_export_error(source) as draft, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        model = QdqModel(detector, options, Path(folder), quantization, symmetric=True)
        written = model.write_verified(draft, source)
    return finish_tensorrt(detector, path, written, quantization.held_out)


def _check(options: ExportOptions) -> None:
    ONNX_INT8.check(options)
    refuse_nms(options, "A TensorRT engine", "this project has not run that on a GPU, so it is not offered")


TENSORRT_INT8 = Int8Format(_check, export_tensorrt_int8)
