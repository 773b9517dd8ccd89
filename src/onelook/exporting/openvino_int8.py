"""Quantises OpenVINO models with NNCF, OpenVINO's own library for that."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
from onelook.exporting.nms import ROW_OUTPUTS
from onelook.exporting.onnx import OUTPUTS, quiet
from onelook.exporting.openvino import convert, save
from onelook.exporting.runtime import runner_of
from onelook.exporting.target import ExportedFile, ExportOptions, check_place, drafted
from onelook.exporting.verify import verify_detections, verify_rows
from onelook.networks.detector import Detector
from onelook.predict.runtimes.openvino import OpenvinoRuntime

CONVOLUTIONS = ("Convolution", "GroupConvolution")
_NO_COMPUTATION = ("Constant", "Parameter", "Result", "Convert", "ShapeOf")


def export_openvino_int8(
    detector: Detector, path: Path, options: ExportOptions, quantization: Quantization
) -> ExportedFile:
    """Writes an OpenVINO model in 8 bits whose AP is within the allowed loss (`int8.quantize_within`).

    Weights are int8 by output channel, features by tensor, with NNCF's bias correction. The last
    convolutions of the head and everything behind them stay in float.
    """
    _check(options)
    check_place(path, ".xml", "an OpenVINO model")
    with drafted(path, (".bin",)) as draft:
        source = convert(detector, draft.with_suffix(".onnx"), options)
        metadata = int8_metadata(source.metadata, None)
        float_file, trial = draft.with_name("float.xml"), draft.with_name("trial.xml")
        save(source.model(), source.metadata, float_file)
        graph = ExportGraph(detector)
        allowed = _convolutions(source.model())
        quantizer = _Quantizer(source.model, metadata.batch, quantization)

        def write(kept: frozenset[str]) -> Path:
            save(quantizer(kept), metadata, trial)
            return trial

        found = quantize_within(
            write,
            float_file,
            lambda: ranked_weights(graph, quantization, list(allowed), outputs=False),
            len(allowed),
            quantization,
        )
        metadata = replace(metadata, int8=quantization.described(found))
        model = quantizer.last
        save(model, metadata, draft)
        runtime = OpenvinoRuntime(draft, "cpu")
        if metadata.nms is None:
            agreement, _ = verify_rows(runner_of(runtime), OUTPUTS, graph, metadata, images=quantization.held_out)
        else:
            with_rows = draft.with_name("rows.xml")
            model.add_outputs(list(ROW_OUTPUTS))
            save(model, metadata, with_rows)
            run = runner_of(OpenvinoRuntime(with_rows, "cpu"))
            agreement, rows = verify_rows(run, ROW_OUTPUTS, graph, metadata, images=quantization.held_out)
            verify_detections(runner_of(runtime), metadata, rows)
    beside = (path.with_suffix(".bin"),)
    return ExportedFile(path, metadata, agreement, runs_in=runtime.library, beside=beside, int8=found)


class _Quantizer:
    """Quantises a model with NNCF; the last result is `last`. model: gives the float model anew."""

    def __init__(self, model: Any, batch: int | None, quantization: Quantization) -> None:
        self.model, self.batch, self.quantization = model, batch, quantization
        self.last: Any = None

    def __call__(self, kept: frozenset[str]) -> Any:
        import nncf

        model = self.model()
        convolutions = _convolutions(model)
        ignored = [*_last_operations(model), *(convolutions[weight] for weight in kept)]
        settings = {
            value.any_name: np.array(1.0, np.float32)
            for value in model.inputs
            if value.any_name != "images"  # the thresholds of NMS, behind everything that is quantised
        }
        with self.quantization.reporter.progress("calibrating") as progress, _quiet_nncf():
            batches = batches_of(self.quantization.images(), self.batch, self.quantization.count, progress)
            self.last = nncf.quantize(
                model,
                nncf.Dataset(
                    _Once(batches, self.quantization, self.batch), lambda batch: {"images": batch, **settings}
                ),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=-(-self.quantization.count // (self.batch or 1)),
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            )
        return self.last


class _Once:
    """Batches of calibration images that can be read more than once; the first time with progress."""

    def __init__(self, first: Iterator[np.ndarray], quantization: Quantization, batch: int | None) -> None:
        self._first: Iterator[np.ndarray] | None = first
        self.quantization, self.batch = quantization, batch

    def __iter__(self) -> Iterator[np.ndarray]:
        first, self._first = self._first, None
        if first is not None:
            return first
        count = self.quantization.count
        return batches_of(self.quantization.images(), self.batch, count, lambda done, total, detail="": None)


def _convolutions(model: Any) -> dict[str, str]:
    """The names of the convolutions that can be in 8 bits, by the names of their weights."""
    last = set(_last_operations(model))
    found = {}
    for operation in model.get_ordered_ops():
        name = operation.get_friendly_name()
        if operation.get_type_name() in CONVOLUTIONS and name not in last:
            weight = operation.input_value(1).get_node()
            while weight.get_type_name() != "Constant":  # a group convolution may have them in another shape
                weight = weight.input_value(0).get_node()
            found[weight.get_friendly_name()] = name
    return found


def _last_operations(model: Any) -> list[str]:
    """The names of the operations behind which there is no convolution: the last ones and the decoding of boxes."""
    before: dict[str, bool] = {}
    last = []
    for operation in reversed(model.get_ordered_ops()):
        following = [target.get_node() for output in operation.outputs() for target in output.get_target_inputs()]
        name = operation.get_friendly_name()
        before[name] = any(one.get_type_name() in CONVOLUTIONS or before[one.get_friendly_name()] for one in following)
        if not before[name] and operation.get_type_name() not in _NO_COMPUTATION:
            last.append(name)
    return last


@contextmanager
def _quiet_nncf() -> Iterator[None]:
    """While it lasts, NNCF prints nothing: neither its log nor progress bars of its own."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    with quiet(), redirect_stdout(io.StringIO()):
        yield


def _check(_: ExportOptions) -> None:
    for package in ("openvino", "nncf"):
        if find_spec(package) is None:
            raise missing_package(package, "Exporting to OpenVINO in 8 bits", work="int8")


OPENVINO_INT8 = Int8Format(_check, export_openvino_int8)
