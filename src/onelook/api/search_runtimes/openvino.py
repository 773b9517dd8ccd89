"""Latency in OpenVINO on the processor."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from time import process_time

from onelook.api.search_runtimes.base import MeasuredFile, random_input
from onelook.api.search_runtimes.onnx_convolution import onnx_convolution
from onelook.exporting.openvino import OPENVINO
from onelook.nas.operators import Operator
from onelook.predict.runtimes.openvino import OpenvinoRuntime


class MeasuredOpenvino(MeasuredFile):
    """OpenVINO, compiled for the least time of one run."""

    name = "openvino"
    packages = ("openvino", "onnx", "onnxscript", "onnxruntime")
    target, opens = OPENVINO, OpenvinoRuntime
    one_thread_clock = staticmethod(process_time)  # its one thread is not the caller's

    def _open(self, device: str | None) -> None:
        super()._open(device)
        self.library = version("openvino")

    def convolution(self, operator: Operator, activation: str) -> Callable[[], object]:
        import openvino

        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        model = core.read_model(onnx_convolution(operator, activation))
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(random_input(operator)))
        return request.infer
