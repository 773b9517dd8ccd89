"""Latency in ncnn on the processor."""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onelook.api.search_runtimes.base import MeasuredFile, random_input, random_kernel
from onelook.exporting.ncnn import NCNN
from onelook.nas.operators import Operator
from onelook.predict.runtimes.ncnn import NcnnRuntime, new_net

_ACTIVATIONS = {"relu": ("ReLU", ""), "leaky_relu": ("ReLU", "0=0.1"), "mish": ("Mish", ""), "silu": ("Swish", "")}
_FLOAT32 = struct.pack("<I", 0)  # before the kernel in a file of weights: their type


class MeasuredNcnn(MeasuredFile):
    """ncnn in float32."""

    name = "ncnn"
    packages = ("ncnn", "pnnx")
    target, opens = NCNN, NcnnRuntime

    def _open(self, device: str | None) -> None:
        super()._open(device)
        self.library = version("ncnn")

    def convolution(self, operator: Operator, activation: str) -> Callable[[], object]:
        import ncnn

        net = new_net(self.threads, half=False)
        with TemporaryDirectory() as folder:
            param, weights = Path(folder) / "one.param", Path(folder) / "one.bin"
            param.write_text(ncnn_convolution(operator, activation), encoding="ascii")
            bias = np.zeros(operator.outputs, np.float32)
            weights.write_bytes(_FLOAT32 + random_kernel(operator).tobytes() + bias.tobytes())
            if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
                raise RuntimeError(f"ncnn does not read a network of one convolution: {operator}")
        pixels = random_input(operator)[0]
        x = ncnn.Mat(pixels).clone()  # a Mat does not keep the array

        def run() -> object:
            extractor = net.create_extractor()
            extractor.input("x", x)
            return extractor.extract("y")

        return run


def ncnn_convolution(operator: Operator, activation: str) -> str:
    """An ncnn network (.param) of one convolution with bias and its activation, from "x" to "y"."""
    kernel, stride, inputs, outputs, _, depthwise = operator
    size = random_kernel(operator).size
    kind, groups = ("ConvolutionDepthWise", f" 7={inputs}") if depthwise else ("Convolution", "")
    settings = f"0={outputs} 1={kernel} 3={stride} 4={(kernel - 1) // 2} 5=1 6={size}{groups}"
    name, value = _ACTIVATIONS[activation]
    lines = ("7767517", "3 3", "Input x 0 1 x", f"{kind} conv 1 1 x conv {settings}", f"{name} act 1 1 conv y {value}")
    return "\n".join((*lines, ""))
