"""One convolution as an ONNX model, which ONNX Runtime and OpenVINO open."""

from __future__ import annotations

from typing import Any

import numpy as np

from onelook.api.search_runtimes.base import random_kernel
from onelook.nas.operators import Operator

_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.1}),
    "mish": ("Mish", {}),
}


def onnx_convolution(operator: Operator, activation: str) -> bytes:
    """An ONNX model of one convolution with bias and its activation, from "x" to "y"."""
    from onnx import TensorProto, helper, numpy_helper

    kernel, stride, inputs, outputs, side, depthwise = operator
    pads = [(kernel - 1) // 2] * 4
    settings: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
    settings["group"] = inputs if depthwise else 1
    nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["convolved"], **settings)]
    if activation == "silu":
        nodes.append(helper.make_node("Sigmoid", ["convolved"], ["gate"]))
        nodes.append(helper.make_node("Mul", ["convolved", "gate"], ["y"]))
    else:
        name, attributes = _ACTIVATIONS[activation]
        nodes.append(helper.make_node(name, ["convolved"], ["y"], **attributes))
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs, side // stride, side // stride])],
        [
            numpy_helper.from_array(random_kernel(operator), "weight"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
