"""Quantises ONNX models with ONNX Runtime's static quantiser, as QuantizeLinear and DequantizeLinear nodes (QDQ)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onelook.errors import missing_package
from onelook.exporting.graph import ExportGraph
from onelook.exporting.int8 import (
    Int8Format,
    Quantization,
    batches_of,
    int8_metadata,
    quantize_within,
    ranked_weights,
)
from onelook.exporting.nms import ROW_OUTPUTS, append_nms
from onelook.exporting.onnx import (
    DEFAULT_LIMIT,
    OUTPUTS,
    export_onnx,
    ir_version,
    nms_settings,
    quiet,
    to_model,
    write_model,
)
from onelook.exporting.ranges import Range, least_error_ranges
from onelook.exporting.runtime import onnx_runner
from onelook.exporting.target import ExportedFile, ExportOptions, replacing_or_export_error
from onelook.exporting.verify import verify_detections, verify_rows
from onelook.networks.detector import Detector

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from onelook.exported import ExportedMetadata

OPERATORS = ("Conv",)


def export_onnx_int8(
    detector: Detector, path: Path, options: ExportOptions, quantization: Quantization
) -> ExportedFile:
    """Writes an ONNX file with convolutions in 8 bits whose AP is within the allowed loss (`int8.quantize_within`).

    Weights are int8 by output channel, features uint8 by tensor. The last convolutions of the head and everything
    behind them stay in float.
    """
    _check(options)
    with replacing_or_export_error(path) as draft, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return QdqModel(detector, options, Path(folder), quantization, symmetric=False).write_verified(draft, path)


class QdqModel:
    """A detector whose 8-bit files are written and judged in a folder.

    symmetric: zero is in the middle of the range of all features, and biases are in float, as TensorRT takes them.
    """

    def __init__(
        self, detector: Detector, options: ExportOptions, folder: Path, quantization: Quantization, *, symmetric: bool
    ) -> None:
        import onnx

        nms = options.nms
        if nms is not None and nms.limit is None:
            nms = replace(nms, limit=DEFAULT_LIMIT)
        self.folder, self.quantization, self.symmetric = folder, quantization, symmetric
        self.least_runtime, self.ir = options.least_runtime, ir_version(options.least_runtime)
        self.graph = ExportGraph(detector)
        self.float_file = export_onnx(
            detector,
            folder / "float.onnx",
            nms=nms,
            dynamic=options.dynamic,
            batch=options.batch,
            size=options.size,
        )
        self.metadata = int8_metadata(self.float_file.metadata, None)
        self.nms = nms if nms is None or not self.metadata.one_to_one else replace(nms, iou=1.0, agnostic=False)
        self.outputs = OUTPUTS if nms is None else ROW_OUTPUTS
        self.rows = self.float_file.path if nms is None else folder / "rows.onnx"
        if nms is not None:
            onnx.save(to_model(self.graph, self.metadata.size, self.metadata.batch, self.outputs), str(self.rows))
        model = onnx.load(str(self.rows))
        self.last = last_nodes(model)
        self.convolutions = {
            node.input[1]: node for node in model.graph.node if node.op_type in OPERATORS and node.name not in self.last
        }
        self.ranges = self._ranges(model)

    def write_verified(self, draft: Path, path: Path) -> ExportedFile:
        """Writes the file with the fewest convolutions in float, verified. path: its name in the end."""
        found = quantize_within(
            self._write_trial,
            self.float_file.path,
            lambda: ranked_weights(self.graph, self.quantization, list(self.convolutions), outputs=True),
            len(self.convolutions),
            self.quantization,
        )
        self.metadata = replace(self.metadata, int8=self.quantization.described(found))
        rows = self._quantized(frozenset(found.kept))
        run = onnx_runner(rows.SerializeToString())
        agreement, verified = verify_rows(
            run, self.outputs, self.graph, self.metadata, images=self.quantization.held_out
        )
        metadata = self._write(rows, draft)
        if metadata.nms is not None:
            verify_detections(onnx_runner(draft), metadata, verified)
        return ExportedFile(path, metadata, agreement, self.least_runtime, int8=found)

    def _write_trial(self, kept: frozenset[str]) -> Path:
        path = self.folder / "trial.onnx"
        self._write(self._quantized(kept), path)
        return path

    def _write(self, model: ModelProto, path: Path) -> ExportedMetadata:
        metadata = self.metadata
        if self.nms is not None:
            num_rows = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
            suppress = not metadata.one_to_one
            limit = append_nms(model, self.nms, num_rows, metadata.num_classes, suppress=suppress)
            metadata = replace(metadata, nms=nms_settings(self.nms, limit))
        write_model(model, metadata, path, self.ir)
        return metadata

    def _quantized(self, kept: frozenset[str]) -> ModelProto:
        """The model with all convolutions in 8 bits but the last ones and those with these weights."""
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        changed = self.folder / "quantised.onnx"
        excluded = [*self.last, *(self.convolutions[weight].name for weight in kept)]
        overrides = {
            name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in self.ranges.items()
        }
        extra: dict[str, Any] = {"TensorQuantOverrides": overrides}
        if self.symmetric:
            extra |= {"ActivationSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": False}
        with quiet():
            quantize_static(
                str(self.rows),
                str(changed),
                _Reader([next(self._batches())]),  # the ranges are given, so one image is enough
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt8 if self.symmetric else QuantType.QUInt8,
                nodes_to_exclude=excluded,
                extra_options=extra,
            )
        model = onnx.load(str(changed))
        del model.metadata_props[:]
        return model

    def _batches(self, progress: Any = lambda done, total: None) -> Iterator[np.ndarray]:
        return batches_of(self.quantization.images(), self.metadata.batch, self.quantization.count, progress)

    def _ranges(self, model: ModelProto) -> dict[str, Range]:
        """The range of each tensor that a convolution in 8 bits takes or gives, on the calibration images."""
        wanted = {name for node in self.convolutions.values() for name in (node.input[0], node.output[0])}
        with self.quantization.reporter.progress("calibrating") as progress:
            return least_error_ranges(model, wanted, self._batches(progress), symmetric=self.symmetric)


def last_nodes(model: ModelProto) -> list[str]:
    """The names of the nodes behind which there is no convolution: the last ones and the decoding of boxes."""
    users: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    before: dict[str, bool] = {}
    last = []
    for node in reversed(model.graph.node):  # ONNX lists nodes in the order in which they can be computed
        following = [user for output in node.output for user in users.get(output, [])]
        before[node.name] = any(user.op_type == "Conv" or before[user.name] for user in following)
        if not before[node.name]:
            last.append(node.name)
    return last


class _Reader:
    """Batches in the form that the quantiser reads."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _check(options: ExportOptions) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_package(package, "Exporting to ONNX", work="export")
    ir_version(options.least_runtime)


ONNX_INT8 = Int8Format(_check, export_onnx_int8)
