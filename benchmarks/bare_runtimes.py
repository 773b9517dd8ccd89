"""The shortest loop of each library's own calls around an exported file, at one thread: what our runtimes are held to.

A loop begins with uint8 pixels (I, H, W, 3) in the size of the input, takes the next image in each call, prepares it as
any program has to, and ends with boxes and scores of all rows as arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import torch

from onelook.predict.runtimes.exported import ExportedRuntime

Loop = Callable[[], object]


def _loop(pixels: np.ndarray, run: Callable[[np.ndarray], object]) -> Loop:
    rows = cycle(range(len(pixels)))

    def call() -> object:
        return run(np.ascontiguousarray(pixels[next(rows)].transpose(2, 0, 1), np.float32)[None])

    return call


def onnx_loop(runtime: ExportedRuntime, pixels: np.ndarray) -> Loop:
    """ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(runtime.path, options, providers=["CPUExecutionProvider"])
    return _loop(pixels, lambda images: session.run(["boxes", "scores"], {"images": images}))


def openvino_loop(runtime: ExportedRuntime, pixels: np.ndarray) -> Loop:
    """OpenVINO, for the least time of one run."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(runtime.path, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> object:
        found = request.infer({"images": images}, share_inputs=True)
        return found["boxes"].copy(), found["scores"].copy()

    return _loop(pixels, run)


def ncnn_loop(runtime: ExportedRuntime, pixels: np.ndarray) -> Loop:
    """ncnn, in float16 for a file in float16."""
    import ncnn

    net = ncnn.Net()
    half = runtime.precision == "float16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.num_threads = 1
    net.load_param(runtime.path)
    net.load_model(runtime.files()[1])

    def run(images: np.ndarray) -> object:
        extractor = net.create_extractor()
        extractor.input("images", ncnn.Mat(images[0]).clone())
        return [np.array(extractor.extract(name)[1]) for name in ("boxes", "scores")]

    return _loop(pixels, run)


def litert_loop(runtime: ExportedRuntime, pixels: np.ndarray) -> Loop:
    """LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(runtime.path, num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    return _loop(pixels, lambda images: signature(images=images))


def torch_loop(runtime: ExportedRuntime, pixels: np.ndarray) -> Loop:
    """The program of torch.export, with as many threads as PyTorch is set to."""
    module: Any = torch.export.load(runtime.path).module()

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return [tensor.numpy() for tensor in module(torch.from_numpy(images))]

    return _loop(pixels, run)


BARE_LOOPS: dict[str, Callable[[ExportedRuntime, np.ndarray], Loop]] = {
    "onnx": onnx_loop,
    "openvino": openvino_loop,
    "ncnn": ncnn_loop,
    "litert": litert_loop,
    "torch": torch_loop,
}
