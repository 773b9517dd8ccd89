"""The runtimes that latency is measured in. A new one is its file and a line here."""

from __future__ import annotations

from typing import Literal

from onelook.api.search_runtimes.base import MeasuredRuntime
from onelook.api.search_runtimes.ncnn import MeasuredNcnn
from onelook.api.search_runtimes.onnx import MeasuredOnnx
from onelook.api.search_runtimes.openvino import MeasuredOpenvino
from onelook.api.search_runtimes.torch import MeasuredTorch

SearchRuntime = Literal["torch", "onnx", "openvino", "ncnn"]

RUNTIMES: dict[str, type[MeasuredRuntime]] = {
    one.name: one for one in (MeasuredTorch, MeasuredOnnx, MeasuredOpenvino, MeasuredNcnn)
}
