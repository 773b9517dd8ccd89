"""Latency in ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from onelook.api.search_runtimes.base import MeasuredFile, random_input
from onelook.api.search_runtimes.onnx_convolution import onnx_convolution
from onelook.exporting.onnx import ONNX
from onelook.nas.operators import Operator
from onelook.predict.runtimes.onnx import OnnxRuntime


class MeasuredOnnx(MeasuredFile):
    """ONNX Runtime."""

    name = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    work = "export"
    target, opens = ONNX, OnnxRuntime

    def _open(self, device: str | None) -> None:
        super()._open(device)
        self.library = version("onnxruntime")

    def convolution(self, operator: Operator, activation: str) -> Callable[[], object]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        model = onnx_convolution(operator, activation)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        x = random_input(operator)
        return lambda: session.run(None, {"x": x})
